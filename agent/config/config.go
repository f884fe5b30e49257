// Package config is sealiftd's configuration file: its keys, their defaults and
// their documentation, which are one text (default.toml).
package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// File is where the agent looks for its configuration.
const File = "/etc/sealift/config.toml"

// Default documents every key and holds its default value.
//
//go:embed default.toml
var Default []byte

// Config is the whole file.
type Config struct {
	TPM        TPM        `toml:"tpm"`
	Log        Log        `toml:"log"`
	Containerd Containerd `toml:"containerd"`
	Measure    Measure    `toml:"measure"`
	Policy     Policy     `toml:"policy"`
	Node       Node       `toml:"node"`
	Attest     Attest     `toml:"attest"`

	// Source is the file this came from, or "built-in defaults".
	Source string `toml:"-"`
	// Bytes are the very bytes that were read, for the record.
	Bytes []byte `toml:"-"`
}

type TPM struct {
	Device  string   `toml:"device"`
	PCR     int      `toml:"pcr"`
	Timeout Duration `toml:"timeout"`
}

type Log struct {
	Directory    string   `toml:"directory"`
	SegmentBytes int64    `toml:"segment_bytes"`
	MaxBytes     int64    `toml:"max_bytes"`
	Reserve      int64    `toml:"reserve"`
	Quota        int64    `toml:"quota"`
	SyncLag      Duration `toml:"sync_lag"`
}

type Containerd struct {
	Addresses []string `toml:"addresses"`
	Timeout   Duration `toml:"timeout"`
}

type Measure struct {
	Workers    int    `toml:"workers"`
	Background bool   `toml:"background"`
	Cache      string `toml:"cache"`
}

type Policy struct {
	Directory string `toml:"directory"`
	Trust     string `toml:"trust"`
}

type Node struct {
	Shims  []string `toml:"shims"`
	CLI    []string `toml:"cli"`
	Census Duration `toml:"census"`
}

type Attest struct {
	Directory  string   `toml:"directory"`
	BootLog    string   `toml:"boot_log"`
	IMALog     string   `toml:"ima_log"`
	Listen     string   `toml:"listen"`
	Trust      string   `toml:"trust"`
	Revocation string   `toml:"revocation"`
	Interval   Duration `toml:"interval"`
}

// Duration is a time.Duration written as Go writes it: "1.5s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Load reads file. A file that is not there gives the defaults when it is the
// default File; a key that is not known, or a value out of range, is an error
// that names line and key.
func Load(file string) (*Config, error) {
	c, err := parse(Default)
	if err != nil {
		return nil, fmt.Errorf("built-in defaults: %w", err)
	}
	c.Source = "built-in defaults"
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && file == File {
		c.Bytes = Default
		return c, c.check()
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if err := decode(b, c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w\nhint: `sealiftd config default` prints every key with its meaning", file, err)
	}
	c.Source, c.Bytes = file, b
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", file, err)
	}
	return c, nil
}

func parse(b []byte) (*Config, error) {
	c := &Config{}
	return c, decode(b, c)
}

func decode(b []byte, c *Config) error {
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	err := dec.Decode(c)
	var strict *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		var keys []string
		for i := range strict.Errors {
			row, _ := strict.Errors[i].Position()
			keys = append(keys, fmt.Sprintf("line %d: unknown key %s", row, strings.Join(strict.Errors[i].Key(), ".")))
		}
		return errors.New(strings.Join(keys, "; "))
	case errors.As(err, &bad):
		row, col := bad.Position()
		return fmt.Errorf("line %d, column %d: %w", row, col, err)
	case err != nil:
		return err
	}
	return exactCase(b)
}

// exactCase refuses a key that the decoder took for another by ignoring case.
func exactCase(b []byte) error {
	var tables map[string]any
	if err := toml.Unmarshal(b, &tables); err != nil {
		return err
	}
	for name, v := range tables {
		if name != strings.ToLower(name) {
			return fmt.Errorf("unknown key %s", name)
		}
		keys, _ := v.(map[string]any)
		for key := range keys {
			if key != strings.ToLower(key) {
				return fmt.Errorf("unknown key %s.%s", name, key)
			}
		}
	}
	return nil
}

func (c *Config) check() error {
	if c.TPM.PCR < 10 || c.TPM.PCR > 15 {
		return fmt.Errorf("tpm.pcr = %d: must be 10 to 15\nhint: others can be reset, or belong to the firmware", c.TPM.PCR)
	}
	if d := c.TPM.Device; d != "" && !strings.HasPrefix(d, "/dev/") && !strings.HasPrefix(d, "unix:/") {
		return fmt.Errorf("tpm.device = %q: must be a device file or unix:/PATH", d)
	}
	for key, d := range map[string]Duration{"tpm.timeout": c.TPM.Timeout, "containerd.timeout": c.Containerd.Timeout, "node.census": c.Node.Census, "attest.interval": c.Attest.Interval} {
		if time.Duration(d) <= 0 {
			return fmt.Errorf("%s = %s: must be more than zero", key, time.Duration(d))
		}
	}
	if c.Log.SegmentBytes < 1<<16 {
		return fmt.Errorf("log.segment_bytes = %d: must be at least %d", c.Log.SegmentBytes, 1<<16)
	}
	if c.Log.Quota <= 0 || c.Log.Reserve <= 0 || c.Log.MaxBytes < c.Log.SegmentBytes+c.Log.Reserve {
		return fmt.Errorf("log.quota = %d, log.reserve = %d, log.max_bytes = %d: the first two must be more than zero, and max_bytes must hold a segment and the reserve", c.Log.Quota, c.Log.Reserve, c.Log.MaxBytes)
	}
	if c.Measure.Workers < 0 {
		return fmt.Errorf("measure.workers = %d: must not be negative", c.Measure.Workers)
	}
	for key, p := range map[string]string{"log.directory": c.Log.Directory, "measure.cache": c.Measure.Cache, "policy.directory": c.Policy.Directory, "policy.trust": c.Policy.Trust,
		"attest.directory": c.Attest.Directory, "attest.boot_log": c.Attest.BootLog, "attest.ima_log": c.Attest.IMALog, "attest.trust": c.Attest.Trust, "attest.revocation": c.Attest.Revocation} {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("%s = %q: must be an absolute path", key, p)
		}
	}
	for key, l := range map[string][]string{"node.shims": c.Node.Shims, "node.cli": c.Node.CLI} {
		if len(l) == 0 {
			return fmt.Errorf("%s: must name at least one file", key)
		}
	}
	return nil
}
