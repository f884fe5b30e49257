package layer

import (
	"errors"
	"path"
	"strings"
)

// The unpacker finds the directory an entry goes to with continuity's
// fs.RootPath, which rewrites the path until no symbolic link is left. Its
// rules are kept here step by step, because they are not the kernel's: ".." in
// a link's target is removed as text, and every rewriting step asks the kernel
// about paths that may still hold other links.

var errNotExist = errors.New("no such entry")

const (
	maxRewrites = 255 // fs.RootPath's own limit
	maxFollows  = 40  // the kernel's MAXSYMLINKS

	// maxSteps bounds the components looked at for all entries together that
	// meet links: the work grows with the square of a path's depth, and a
	// hostile tar must not keep a processor busy for hours.
	maxSteps = 1 << 26
)

// lstat returns what lstat(2) would find at the absolute path p of the layer.
// Links on the way are followed as the kernel does; one that leaves the layer
// would be answered by the host's files, so it has no meaning.
func (l *layerDir) lstat(p string) (*inode, error) {
	if len(p) > MaxPath {
		return nil, refusal(ReasonName, "path of %d bytes", len(p))
	}
	follows := 0
	return l.walk(l.root, p, false, &follows)
}

func (l *layerDir) walk(at *inode, p string, followLast bool, follows *int) (*inode, error) {
	for p != "" {
		var name string
		name, p, _ = strings.Cut(p, "/")
		p = strings.TrimLeft(p, "/")
		if l.steps++; l.steps > maxSteps {
			return nil, refusal(ReasonTooMany, "its symbolic links cost too much to follow")
		}
		if !at.typ.IsDir() {
			return nil, refusal(ReasonParent, "a parent is a %s", at.typ)
		}
		switch name {
		case "", ".":
			continue
		case "..":
			if at == l.root {
				return nil, refusal(ReasonSymlinkHost, "a symbolic link on the way leaves the layer")
			}
			at = at.parent
			continue
		}
		if len(name) > MaxName {
			return nil, refusal(ReasonName, "name of %d bytes", len(name))
		}
		next, ok := at.children[name]
		if !ok {
			return nil, errNotExist
		}
		if next.typ == Symlink && (p != "" || followLast) {
			if *follows++; *follows > maxFollows {
				return nil, refusal(ReasonSymlinkLoop, "more than %d symbolic links on the way", maxFollows)
			}
			if strings.HasPrefix(next.target, "/") {
				return nil, refusal(ReasonSymlinkHost, "the symbolic link to %.300q on the way is looked up on the host", next.target)
			}
			target, err := l.walk(at, next.target, true, follows)
			if err != nil {
				return nil, err
			}
			next = target
		}
		at = next
	}
	return at, nil
}

// resolve returns the absolute path without symbolic links that p stands for
// below the layer's root. Parts that do not exist are kept as they are.
func (l *layerDir) resolve(p string) (string, error) {
	if p == "" {
		return "/", nil
	}
	if l.straight(p) {
		return path.Join("/", p), nil
	}
	rewrites := 0
	for {
		before := rewrites
		next, err := l.rewrite(p, &rewrites)
		if err != nil {
			return "", err
		}
		p = next
		if rewrites == before {
			if p = path.Join("/", next); p == next {
				return p, nil
			}
		}
	}
}

// straight reports that p, which may be a name as the tar has it, meets no link
// and nothing else that needs a second look: then it stands for itself. This is
// the way of nearly every entry, and keeps deep paths cheap.
func (l *layerDir) straight(p string) bool {
	if len(p) > MaxPath-1 {
		return false
	}
	at := l.root
	for rest := strings.Trim(p, "/"); rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		if checkName(name) != nil || !at.typ.IsDir() {
			return false
		}
		next, ok := at.children[name]
		if !ok {
			return !strings.Contains("/"+rest+"/", "/../") && !strings.Contains(rest, "//") && !strings.Contains("/"+rest+"/", "/./")
		}
		if next.typ == Symlink {
			return false
		}
		at = next
	}
	return true
}

// rewrite replaces links in p, parents first, by their targets.
func (l *layerDir) rewrite(p string, rewrites *int) (string, error) {
	dir, name := path.Split(p)
	switch {
	case p == "/":
		return p, nil
	case dir == "":
		next, _, err := l.rewriteLast(name, rewrites)
		return next, err
	case name == "":
		return l.rewrite(dir[:len(dir)-1], rewrites)
	}
	dir, err := l.rewrite(dir, rewrites)
	if err != nil {
		return "", err
	}
	next, link, err := l.rewriteLast(path.Join(dir, name), rewrites)
	if err != nil || !link || path.IsAbs(next) {
		return next, err
	}
	return path.Join(dir, next), nil
}

func (l *layerDir) rewriteLast(p string, rewrites *int) (next string, link bool, err error) {
	if *rewrites > maxRewrites {
		return "", false, refusal(ReasonSymlinkLoop, "more than %d symbolic links", maxRewrites)
	}
	if p = path.Join("/", p); p == "/" {
		return p, false, nil
	}
	n, err := l.lstat(p)
	switch {
	case errors.Is(err, errNotExist):
		return p, false, nil
	case err != nil:
		return "", false, err
	case n.typ != Symlink:
		return p, false, nil
	}
	*rewrites++
	return n.target, true, nil
}
