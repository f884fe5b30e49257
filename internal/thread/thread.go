// Package thread runs code on an operating system's thread that may be given
// namespaces, credentials and filters of its own.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread that ends with it: nothing else ever runs on it. It is
// never the process's first thread, because what others see of a process under
// /proc/PID (namespaces(7), proc(5)) is that thread's.
func Run(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine holds the first thread another one gets another.
			err := Run(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- f() // locked for good: the thread ends with the goroutine
	}()
	return <-done
}
