package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefaultsAreValid(t *testing.T) {
	c, err := parse(Default)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	if c.TPM.PCR != 13 || len(c.Containerd.Addresses) != 1 {
		t.Fatalf("defaults: %+v", c)
	}
}

func TestLoad(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"empty file keeps defaults", "", ""},
		{"one key", "[tpm]\npcr = 11\n", ""},
		{"unknown key", "[tpm]\npcr = 11\nprc = 12\n", "line 3: unknown key tpm.prc"},
		{"unknown table", "[tmp]\npcr = 11\n", "unknown key tmp"},
		{"case variant", "[TPM]\nPCR = 11\n", "unknown key TPM"},
		{"resettable PCR", "[tpm]\npcr = 16\n", "must be 10 to 15"},
		{"wrong type", "[tpm]\npcr = \"13\"\n", "line 2"},
		{"bad duration", "[tpm]\ntimeout = \"soon\"\n", "duration"},
		{"relative path", "[log]\ndirectory = \"log\"\n", "absolute"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file)
			switch {
			case tc.want == "" && err != nil:
				t.Fatalf("unexpected error: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Fatalf("error %v, wanted one with %q", err, tc.want)
			}
		})
	}
}

func TestMissingFileIsAnErrorUnlessItIsTheDefault(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); err == nil {
		t.Fatal("a named file that is not there was accepted")
	}
}
