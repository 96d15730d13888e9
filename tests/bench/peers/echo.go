// echo.go - a peer of the benchmarks: an echo in Go, a goroutine for each connection.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

const (
	smallBuffer = 4 << 10
	largeBuffer = 64 << 10
)

// echo sends back what comes; the buffer grows once for a peer that fills it.
func echo(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, smallBuffer)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err = conn.Write(buffer[:n]); err != nil {
			return
		}
		if n == smallBuffer {
			buffer = make([]byte, largeBuffer)
		}
	}
}

func collectOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	for range signals {
		debug.FreeOSMemory()
	}
}

// TCP_NODELAY is Go's default.
func main() {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go collectOnSignal()
	fmt.Printf("listening tcp:127.0.0.1:%d go\n", listener.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go echo(conn)
	}
}
