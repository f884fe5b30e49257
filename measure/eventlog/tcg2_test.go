package eventlog_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sealift/sealift/measure/eventlog"
	"github.com/sealift/sealift/measure/tpm"
	"github.com/sealift/sealift/measure/tpm/swtpmtest"
)

func export(t *testing.T, dir string) []byte {
	t.Helper()
	lines, err := eventlog.Lines(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := eventlog.ExportTCG2(&b, lines); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sha256 by a program that is not ours.
func opensslDigest(t *testing.T, data []byte) string {
	t.Helper()
	out := string(swtpmtest.Tool(t, data, "openssl", "dgst", "-sha256", "-r"))
	sum, _, _ := strings.Cut(out, " ")
	return sum
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Three programs that are not ours must agree with us: tpm2_eventlog on the
// replayed PCR, tpm2_pcrread on its value, jq and openssl on every digest.
func TestExportAgreesWithOtherTools(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	l := open(t, c)
	for i := range 4 {
		e := event("default", fmt.Sprint("c", i))
		e.Body = map[string]string{"name": "K\u00e4se \xff\\ \x01\x7f\u2028"}
		add(t, l, e)
	}
	file := filepath.Join(t.TempDir(), "log.bin")
	if err := os.WriteFile(file, export(t, c.Dir), 0o600); err != nil {
		t.Fatal(err)
	}
	yaml := string(swtpmtest.Tool(t, nil, "tpm2_eventlog", file))
	_, replayed, ok := strings.Cut(yaml, "\npcrs:")
	if !ok {
		t.Fatalf("tpm2_eventlog: %s", yaml)
	}
	for _, b := range c.Device.Banks() {
		want := readPCR(t, c).Strings()[b.String()]
		read := string(swtpmtest.Tool(t, nil, "tpm2_pcrread", "-T", x.TCTI(), b.String()+":13"))
		if !strings.Contains(strings.ToLower(read), want) {
			t.Errorf("tpm2_pcrread: %s, want %s", read, want)
		}
		if !strings.Contains(replayed, want) {
			t.Errorf("tpm2_eventlog replays bank %s to something else than %s: %s", b, want, replayed)
		}
	}

	// Item digests, from the stored lines with jq and openssl alone.
	var items, batches []string
	for line := range bytes.Lines(stored(t, c.Dir)) {
		get := func(filter string) string {
			return strings.TrimSuffix(string(swtpmtest.Tool(t, line, "jq", "-c", "-r", filter)), "\n")
		}
		if get(`has("batch")`) == "true" {
			data := append([]byte("sealift-batch-v1"), unhex(t, get(".batch.epoch"))...)
			data = append(data, unhex(t, fmt.Sprintf("%016s%08s", toHex(t, get(".batch.first")), toHex(t, get(".batch.count"))))...)
			for _, d := range items {
				data = append(data, unhex(t, d)...)
			}
			items = nil
			batches = append(batches, hex.EncodeToString(data))
			continue
		}
		ns := []byte(get(".item.record.namespace"))
		pseudonym := append([]byte("sealift-tenant-v1"), unhex(t, get(".item.epoch")+get(".item.blind"))...)
		pseudonym = append(pseudonym, unhex(t, fmt.Sprintf("%08x", len(ns)))...)
		pseudonym = append(pseudonym, ns...)
		commitment := append(unhex(t, get(".item.salt")), get(".item.record")...)
		item := append([]byte("sealift-event-v1"), unhex(t, get(".item.epoch"))...)
		item = append(item, unhex(t, fmt.Sprintf("%016s", toHex(t, get(".item.seq"))))...)
		item = append(item, unhex(t, opensslDigest(t, pseudonym)+opensslDigest(t, commitment))...)
		items = append(items, opensslDigest(t, item))
	}

	// tpm2_eventlog does not check that data hash to their digests: we do.
	data := regexp.MustCompile(`(?s)EventType: EV_EVENT_TAG.*?AlgorithmId: sha256\s+Digest: "([0-9a-f]+)".*?Event: "([0-9a-f]+)"`).FindAllStringSubmatch(yaml, -1)
	if len(data) != len(batches) || len(data) != 5 {
		t.Fatalf("%d events in the export, %d batches stored: %s", len(data), len(batches), yaml)
	}
	for i, d := range data {
		if got := opensslDigest(t, unhex(t, d[2])); got != d[1] {
			t.Errorf("event %d: digest %s, data hash to %s", i, d[1], got)
		}
		if !strings.HasSuffix(d[2], batches[i]) || len(d[2]) != len(batches[i])+16 {
			t.Errorf("event %d: data %s, jq and openssl make %s of the stored lines", i, d[2], batches[i])
		}
	}
}

func toHex(t *testing.T, decimal string) string {
	t.Helper()
	var n uint64
	if _, err := fmt.Sscan(decimal, &n); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", n)
}

func TestExportRefusesWhatTCGLogsCannotSay(t *testing.T) {
	x := swtpmtest.Start(t)
	c := config(t, t.TempDir(), x.Device())
	foreign(t, c)
	l := open(t, c)
	add(t, l, eventlog.Event{Type: "note"})
	lines, err := eventlog.Lines(c.Dir, "")
	if err != nil {
		t.Fatal(err)
	}
	var refused *eventlog.ExportError
	if err := eventlog.ExportTCG2(&bytes.Buffer{}, lines); !errors.As(err, &refused) {
		t.Fatalf("export over a foreign initial value: %v", err)
	}
}

// foreign extends the PCR behind the log's back.
func foreign(t testing.TB, c eventlog.Config) {
	t.Helper()
	if err := c.Device.Extend(t.Context(), pcr, tpm.HashAll(c.Device.Banks(), []byte("foreign"))); err != nil {
		t.Fatal(err)
	}
}
