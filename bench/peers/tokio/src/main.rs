//! The echo server in Rust on tokio: its runtime of one thread, a task a connection.
//!
//!     echo_tokio HOST:PORT [--buffer BYTES] [--deadline-ms N]
//!
//! As the documentation of tokio writes it. With --deadline-ms each read and each write is under a
//! timeout.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

async fn serve(mut stream: TcpStream, bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; bytes];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n]).await?;
    }
}

async fn serve_until(mut stream: TcpStream, bytes: usize, patience: Duration) -> io::Result<()> {
    let mut buffer = vec![0; bytes];
    loop {
        let n = timeout(patience, stream.read(&mut buffer)).await??;
        if n == 0 {
            return Ok(());
        }
        timeout(patience, stream.write_all(&buffer[..n])).await??;
    }
}

/// The number after the option, or what it is without.
fn number(option: &str, otherwise: usize) -> usize {
    let mut arguments = std::env::args().skip_while(|a| a != option).skip(1);
    arguments.next().map_or(otherwise, |text| text.parse().expect(option))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).expect("usage: echo_tokio HOST:PORT [--buffer BYTES]");
    let bytes = number("--buffer", 2048);
    let patience = Duration::from_millis(number("--deadline-ms", 0) as u64);
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        if patience.is_zero() {
            tokio::spawn(serve(stream, bytes));
        } else {
            tokio::spawn(serve_until(stream, bytes, patience));
        }
    }
}
