// Command registry serves OCI image layouts over the registry's pull protocol
// (OCI distribution specification, "Pulling"), read-only and without
// encryption, on 127.0.0.1 inside a test host.
//
//	registry ADDRESS NAME=LAYOUT...
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: registry ADDRESS NAME=LAYOUT...")
	}
	layouts := map[string]string{}
	for _, a := range args[1:] {
		name, dir, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=LAYOUT", a)
		}
		layouts[name] = dir
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return http.Serve(l, handler(layouts))
}

// handler serves each layout under its name; any tag is the layout's image.
func handler(layouts map[string]string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /v2/", func(w http.ResponseWriter, r *http.Request) {
		name, kind, reference, ok := parse(r.URL.Path)
		dir, known := layouts[name]
		if !ok || !known {
			http.NotFound(w, r)
			return
		}
		if kind == "manifests" && !digestForm.MatchString(reference) {
			var err error
			if reference, err = tagged(dir); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
		}
		m := digestForm.FindStringSubmatch(reference)
		if m == nil {
			http.NotFound(w, r)
			return
		}
		file := filepath.Join(dir, "blobs", "sha256", m[1])
		if kind == "manifests" {
			w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		} else {
			w.Header().Set("Content-Type", "application/octet-stream")
		}
		w.Header().Set("Docker-Content-Digest", reference)
		http.ServeFile(w, r, file)
	})
	return mux
}

var (
	digestForm = regexp.MustCompile(`^sha256:([0-9a-f]{64})$`)
	pathForm   = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/([^/]+)$`)
)

func parse(path string) (name, kind, reference string, ok bool) {
	m := pathForm.FindStringSubmatch(path)
	if m == nil {
		return "", "", "", false
	}
	return m[1], m[2], m[3], true
}

func tagged(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, v1.ImageIndexFile))
	if err != nil {
		return "", err
	}
	var index v1.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return "", err
	}
	if len(index.Manifests) == 0 {
		return "", fmt.Errorf("%s: no manifest", dir)
	}
	return index.Manifests[0].Digest.String(), nil
}
