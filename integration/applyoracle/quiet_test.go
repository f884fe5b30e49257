package applyoracle

import (
	"io"
	"os"
	"testing"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// TestMain silences the unpackers: generated tars make them warn all the time.
func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard)
	log.L.Logger.SetOutput(io.Discard)
	os.Exit(m.Run())
}
