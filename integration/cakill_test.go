package integration

import (
	"testing"

	"github.com/sealift/sealift/integration/node"
)

// killEach runs a command and kills it at the first, the second, … of each kind
// of system call that changes a file, until it gets through; after each kill it
// runs what must hold then.
const killEach = `
killed=0
kill_each() { # the command; what must hold after it was killed
	for call in fsync renameat linkat unlinkat fchmod; do
		for i in $(seq 20); do
			prepare
			rc=0; { strace -f -qq -o /dev/null -e trace=$call -e inject=$call:signal=KILL:when=$i sh -c "exec $1" >/srv/out 2>/srv/err; } 2>/dev/null || rc=$?
			[ $rc != 0 ] || break
			killed=$((killed+1))
			eval "$2" || { echo "$1, killed at $call $i: $2 does not hold"; exit 1; }
		done
		[ $rc = 0 ] || { echo "$1 never gets through"; cat /srv/err; exit 1; }
	done
}
cd /srv
number() { sealift ca crl --dir ca --pem | openssl crl -noout -crlnumber | sed 's/.*=//;s/^0x//'; }
fresh() { now=$((0x$(number))); [ $now -gt $last ] && last=$now; }
last=0
`

// Killed at each step by the hand of whoever runs them, the commands of a CA and
// of enrolment leave a CA that works, a name that can be had, and a host whose
// evidence bears the certificate of before or that of after, whole.
func TestCAKilledAtEachStep(t *testing.T) {
	n := newNode(t, node.Options{Name: "cakill"})
	s := subject{n, byName, t}
	t.Log(s.sh(`set -eu` + killEach + `
prepare() { rm -rf made; }
kill_each "sealift ca init --name X made/ca" 'if [ -e made/ca ]; then sealift ca list --dir made/ca; else sealift ca init --name X made/ca; fi >/dev/null'

sealift ca init --name X ca >/dev/null
prepare() { :; }
kill_each "sealift ca crl --dir ca" fresh
kill_each "sealift ca token --dir ca web1" "sealift ca token --dir ca web1 >/dev/null"
sealift enroll request --host web1 >request.json
kill_each "sealift ca pin-ek --dir ca --host web1 request.json" "sealift ca list --dir ca >/dev/null"
sealift ca pin-ek --dir ca --host web1 request.json >/dev/null

# Challenges that nobody answers are bounded, and not what is tried here.
enrol() { rm -f ca/challenges/*; sealift enroll request --host web1 >r.json && sealift ca challenge --dir ca r.json >c.json && sealift enroll answer c.json >a.json; }
whole() { enrol && sealift ca issue --dir ca a.json >i.json && sealift enroll store i.json >/dev/null && fresh; }
prepare() { rm -f ca/challenges/*; sealift enroll request --host web1 >r.json; }
kill_each "sealift ca challenge --dir ca r.json" "whole"
prepare() { enrol; }
# What was killed gave nothing away.
kill_each "sealift ca issue --dir ca a.json" '[ ! -s out ] && whole'
prepare() { :; }
kill_each "sealift enroll store i.json" "sealift attest | jq -e '.ak.certificates | length == 2' >/dev/null"
# What was said to be revoked is on the list.
prepare() { whole; }
kill_each "sealift ca revoke --dir ca web1" 'sealift ca revoke --dir ca web1 >/dev/null && [ $(sealift ca list --dir ca --json | jq -r .state | grep -c good) = 0 ] &&
	[ $(sealift ca crl --dir ca --pem | openssl crl -noout -text | grep -c "Serial Number") = $(sealift ca list --dir ca --json | wc -l) ]'
echo "$killed times killed"; [ $killed -gt 30 ]`))
}
