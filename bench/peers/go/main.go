// The echo server in Go: package net, a goroutine a connection.
//
//	echo_go HOST:PORT [--buffer BYTES] [--deadline-ms N]
//	echo_go --version
//
// As the documentation of net writes it, with a loop of Read and Write for its io.Copy(c, c): the
// latter goes by splice(2) through a pipe on Linux, which costs more calls a small message. Go sets
// TCP_NODELAY itself. With --deadline-ms each Read and each Write has a deadline.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"runtime"
	"time"
)

func serve(c net.Conn, bytes int, patience time.Duration) {
	defer c.Close()
	buffer := make([]byte, bytes)
	for {
		if patience > 0 {
			c.SetReadDeadline(time.Now().Add(patience))
		}
		n, err := c.Read(buffer)
		if err != nil {
			return
		}
		if patience > 0 {
			c.SetWriteDeadline(time.Now().Add(patience))
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: echo_go HOST:PORT [--buffer BYTES] [--deadline-ms N]")
	}
	if os.Args[1] == "--version" {
		fmt.Println(runtime.Version())
		return
	}
	options := flag.NewFlagSet("echo_go", flag.ExitOnError)
	bytes := options.Int("buffer", 2048, "bytes of a connection's buffer")
	deadline := options.Int("deadline-ms", 0, "for each operation; 0: none")
	options.Parse(os.Args[2:])
	runtime.GOMAXPROCS(1)

	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(c, *bytes, time.Duration(*deadline)*time.Millisecond)
	}
}
