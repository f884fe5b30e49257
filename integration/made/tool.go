package made

import (
	"context"
	"path/filepath"
)

// Tool builds one of the programs under integration/ as a static binary that
// runs inside a test host, and returns its file.
func Tool(ctx context.Context, name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	file := filepath.Join(root, "build", "tools", name)
	unlock, err := lock(filepath.Join(root, "build", ".tools.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	return file, goBuild(ctx, root, "-o", file, "./integration/"+name)
}
