package integration

import (
	"errors"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/host"
	"github.com/sealift/sealift/integration/image"
	"github.com/sealift/sealift/integration/node"
)

// TestDropIn is what people do with a runtime, on both lines of containerd, with
// the stock shim (so that the test itself is proven) and ours in both ways of
// installing it.
func TestDropIn(t *testing.T) {
	for _, line := range node.Lines {
		t.Run(string(line), func(t *testing.T) {
			t.Parallel()
			n := newNode(t, node.Options{Name: "dropin", Line: line})
			for _, rt := range []runtime{byName, byPath, stock} {
				t.Run(rt.name, func(t *testing.T) {
					for _, c := range dropIn {
						t.Run(c.name, func(t *testing.T) { c.test(subject{n, rt, t}) })
					}
					if rt.name != stock.name { // which leaves sockets of pods
						t.Run("nothing is left", func(t *testing.T) { nothingLeft(subject{n, rt, t}) })
					}
				})
			}
		})
	}
}

var dropIn = []struct {
	name string
	test func(subject)
}{
	{"exit status", exitStatus},
	{"input and output", inputAndOutput},
	{"terminal", terminal},
	{"log to a file", logToFile},
	{"log to a binary", logToBinary},
	{"exec", execs},
	{"attach", attaches},
	{"pause", pauses},
	{"kill", kills},
	{"stats", stats},
	{"update", updates},
	{"out of memory", outOfMemory},
	{"options", options},
	{"cgroup of the systemd kind", systemdCgroup},
	{"pod in one shim", pod},
}

func exitStatus(s subject) {
	_, err := s.Ctr(s.t.Context(), "run", "--rm", "--runtime", s.ctr, image.TinyName, "exit", "sh", "-c", "exit 7")
	var exit *host.ExitError
	if !errors.As(err, &exit) || exit.Status != 7 {
		s.t.Errorf("want exit status 7, got %v", err)
	}
}

func inputAndOutput(s subject) {
	out, err := s.RunCmd(s.t.Context(), host.Cmd{
		Args:  []string{"ctr", "run", "--rm", "--runtime", s.ctr, image.TinyName, "io", "sh", "-c", "wc -c; echo and an error >&2"},
		Stdin: strings.NewReader(strings.Repeat("x", 200_000)),
	})
	if err != nil || strings.TrimSpace(out) != "200000" {
		s.t.Errorf("got %q, %v", out, err)
	}
}

func terminal(s subject) {
	out := s.said(`script -qec "ctr run --rm -t --runtime %s %s tty sh -c 'tty; stty size'" /dev/null </dev/null | tr -d '^@\r'`, s.ctr, image.TinyName)
	if !strings.Contains(out, "/dev/pts/0") && !strings.Contains(out, "/dev/console") {
		s.t.Errorf("no terminal inside: %q", out)
	}
}

func logToFile(s subject) {
	s.sh("rm -f /srv/log; ctr run -d --runtime %s --log-uri file:///srv/log %s logfile echo to-a-file", s.ctr, image.TinyName)
	s.eventually("the log has the line", "grep -q to-a-file /srv/log")
	s.eventually("it ended", "ctr task ls | grep -q 'logfile.*STOPPED'")
	s.sh("ctr task delete logfile; ctr container delete logfile")
}

func logToBinary(s subject) {
	s.sh(`cat > /srv/logger <<'END'
#!/bin/sh
exec 5>&-
cat <&3 > /srv/logged
END
chmod 755 /srv/logger; rm -f /srv/logged
ctr run -d --runtime %s --log-uri binary:///srv/logger %s logbin echo to-a-binary`, s.ctr, image.TinyName)
	s.eventually("the logger has the line", "grep -q to-a-binary /srv/logged")
	s.eventually("it ended", "ctr task ls | grep -q 'logbin.*STOPPED'")
	s.sh("ctr task delete logbin; ctr container delete logbin")
}

func execs(s subject) {
	s.create("exec", "--", "sleep", "600")
	defer s.remove("exec")
	if out := s.sh("ctr task exec --exec-id one exec cat /etc/motd"); out != "an ordinary container" {
		s.t.Errorf("got %q", out)
	}
	_, err := s.Ctr(s.t.Context(), "task", "exec", "--exec-id", "two", "exec", "sh", "-c", "exit 9")
	var exit *host.ExitError
	if !errors.As(err, &exit) || exit.Status != 9 {
		s.t.Errorf("want exit status 9, got %v", err)
	}
	if out := s.sh("ctr task ps exec | grep -c '^[0-9]'"); out != "1" {
		s.t.Errorf("%s processes, want 1", out)
	}
}

func attaches(s subject) {
	out := s.sh("driver leave -id attach -image %s %s; driver attach -id attach", image.TinyName, strings.Join(s.driver, " "))
	if out != "one\ntwo" {
		s.t.Errorf("got %q", out)
	}
}

func pauses(s subject) {
	s.create("pause", "--", "sleep", "600")
	defer s.remove("pause")
	s.sh("ctr task pause pause; ctr task ls | grep -q 'pause .*PAUSED'")
	if _, err := s.Ctr(s.t.Context(), "task", "exec", "--exec-id", "no", "pause", "true"); err == nil {
		s.t.Error("exec in a paused container went through")
	}
	s.sh("ctr task resume pause; ctr task ls | grep -q 'pause .*RUNNING'; ctr task exec --exec-id yes pause true")
}

func kills(s subject) {
	s.create("kill", "--", "sh", "-c", `trap "exit 42" TERM; touch /trapped; while :; do sleep 0.1; done`)
	// Until then the signal would be ignored: it is the first process of its namespace.
	s.eventually("the trap is set", "test -e /proc/$(pgrep -o -f '^sh -c trap')/root/trapped")
	s.sh("ctr task exec -d --exec-id bystander kill sleep 600 </dev/null")
	s.sh("ctr task kill -s TERM kill")
	s.eventually("it ended", "ctr task ls | grep -q 'kill .*STOPPED'")
	if out := s.sh("ctr task delete kill 2>&1"); !strings.Contains(out, "exit code 42") {
		s.t.Errorf("want exit code 42, got %q", out)
	}
	s.sh("ctr container delete kill")
}

func stats(s subject) {
	s.create("stats", "--", "sleep", "600")
	defer s.remove("stats")
	out := s.sh("ctr task metrics --format json stats")
	if !strings.Contains(out, "pids") || !strings.Contains(out, "memory") {
		s.t.Errorf("got %q", out)
	}
}

// memoryLimit finds a container's limit in either kind of cgroup.
const memoryLimit = `cat /sys/fs/cgroup/memory/default/%[1]s/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/default/%[1]s/memory.max`

func updates(s subject) {
	s.create("update", "-memory", "67108864", "--", "sleep", "600")
	defer s.remove("update")
	if got := s.sh(memoryLimit, "update"); got != "67108864" {
		s.t.Errorf("limit at start is %s", got)
	}
	s.sh("driver update -id update -memory 134217728")
	if got := s.sh(memoryLimit, "update"); got != "134217728" {
		s.t.Errorf("limit after the update is %s", got)
	}
}

func outOfMemory(s subject) {
	s.sh("timeout 600 ctr events > /srv/events-%[1]s 2>&1 &", s.name)
	s.eventually("events come", "ctr image label %s seen=%s >/dev/null; grep -q /images/update /srv/events-%[2]s", image.TinyName, s.name)
	s.create("oom", "-memory", "16777216", "--", "sh", "-c", "sleep 1; tail /dev/zero; sleep 1")
	s.eventually("the event came", "grep -q '/tasks/oom.*oom' /srv/events-%s", s.name)
	s.eventually("it ended", "ctr task ls | grep -q 'oom .*STOPPED'")
	s.sh("ctr task delete oom || true; ctr container delete oom; pkill -f '^timeout 600 ctr events'")
}

// options goes through every message a client may send with a create.
func options(s subject) {
	s.create("opt-runc", "-options", "runc", "-body", "root=/run/other-root,binary=/usr/sbin/runc", "--", "sleep", "600")
	s.sh("test -d /run/other-root/default/opt-runc")
	s.remove("opt-runc")
	if s.name != byName.name {
		return // the stock shim knows no other
	}
	s.create("opt-body", "-options", "body", "-body", "Root = \"/run/third-root\"\n", "--", "sleep", "600")
	s.sh("test -d /run/third-root/default/opt-body")
	s.remove("opt-body")
	s.create("opt-path", "-options", "path", "-body", "Root = \"/run/fourth-root\"\n", "--", "sleep", "600")
	s.sh("test -d /run/fourth-root/default/opt-path")
	s.remove("opt-path")
	if _, err := s.tryCreate("opt-bad", "-options", "body", "-body", "Rooot = \"/run/x\"\n", "--", "true"); err == nil {
		s.t.Error("an unknown option went through")
	}
}

// systemdCgroup asks for a slice where systemd seems to run but does not answer:
// the right answer is the error that says so, not a directory called
// "system.slice:sealift:systemd". Ours sees from the path what is wanted; the
// stock shim must be told.
func systemdCgroup(s subject) {
	s.sh("mkdir -p /run/systemd/system")
	defer s.sh("rm -r /run/systemd")
	args := []string{"-cgroups", "system.slice:sealift:systemd", "--", "true"}
	if s.name == stock.name {
		args = append([]string{"-options", "runc", "-body", "systemd=true"}, args...)
	}
	out, err := s.tryCreate("systemd", args...)
	if err == nil {
		s.remove("systemd")
	}
	if err == nil || !strings.Contains(err.Error(), "systemd") {
		s.t.Errorf("got %q, %v", out, err)
	}
}

func pod(s subject) {
	const group = "io.kubernetes.cri.sandbox-id=the-pod"
	s.create("the-pod", "-annotation", group, "--", "sleep", "600")
	s.create("in-pod", "-annotation", group, "--", "sleep", "600")
	s.sh("pgrep -f '^/[^ ]*containerd-shim.*-id the-pod'; ! pgrep -f '^/[^ ]*containerd-shim.*-id in-pod'")
	s.remove("in-pod")
	s.sh("ctr task ls | grep -q 'the-pod.*RUNNING'")
	s.remove("the-pod")
	s.eventually("the shim is gone", "! pgrep -f '^/[^ ]*containerd-shim.*the-pod'")
}

// nothingLeft looks for what containers leave behind when a shim is careless.
func nothingLeft(s subject) {
	s.eventually("no shims", "! pgrep -f '^/[^ ]*containerd-shim'")
	s.eventually("no containers", "[ -z \"$(ctr container ls -q)\" ]")
	s.eventually("no mounts", "! grep -E 'io.containerd.runtime|/run/sealift/bundles' /proc/mounts")
	s.eventually("no cgroups", "[ -z \"$(find /sys/fs/cgroup -mindepth 2 -path '*/default/*' -type d)\" ]")
	s.eventually("no shim sockets", "[ -z \"$(ls -A /run/containerd/s 2>/dev/null)\" ]")
	s.eventually("no bundles", "[ -z \"$(find /run/containerd/io.containerd.runtime.v2.task /run/sealift/bundles -mindepth 2 2>/dev/null)\" ]")
	s.eventually("no runc state", "[ -z \"$(find /run/containerd/runc -mindepth 2 2>/dev/null)\" ]")
	s.eventually("no network namespaces", "[ $(lsns -t net -n -o nprocs | grep -vc '^ *0$') = 1 ]; ! grep nsfs /proc/mounts")
}
