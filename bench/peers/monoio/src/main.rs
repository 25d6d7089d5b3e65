//! The echo server in Rust on monoio: its io_uring driver, one thread, a task a connection.
//!
//!     echo_monoio HOST:PORT [--buffer BYTES]
//!
//! As the documentation of monoio writes it: a read takes the buffer and gives it back.

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use std::io;

async fn serve(mut stream: TcpStream, bytes: usize) -> io::Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(bytes);
    let mut result;
    loop {
        (result, buffer) = stream.read(buffer).await;
        if result? == 0 {
            return Ok(());
        }
        (result, buffer) = stream.write_all(buffer).await;
        result?;
        buffer.clear();
    }
}

/// The number after the option, or what it is without.
fn number(option: &str, otherwise: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|a| a != option).skip(1);
    arguments.next().map_or(otherwise, |text| text.parse().expect(option))
}

#[monoio::main(driver = "uring")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).expect("usage: echo_monoio HOST:PORT [--buffer BYTES]");
    let bytes = number("--buffer", 2048);
    let listener = TcpListener::bind(address)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        monoio::spawn(serve(stream, bytes));
    }
}
