// Package version holds the name of this build.
package version

// Version is set by the linker from `git describe`; a build without the
// Makefile is called "devel".
var Version = "devel"
