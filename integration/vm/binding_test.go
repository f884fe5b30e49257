package vm_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sealift/sealift/integration/made"
	"github.com/sealift/sealift/integration/skip"
	"github.com/sealift/sealift/integration/vm"
)

// attacks are scripts on $victim, a file of the measured tree or the measured
// image, which lies on the ext4 file system /mnt of /dev/vdc. They change the
// byte "MARK" is at.
var attacks = map[string]string{
	"nothing": ":",

	"write and put back the times": `cp -p $victim /tmp/times; change; touch -r /tmp/times $victim`,

	"set the clock back, write, set it again": `
cp -p $victim /tmp/times; now=$(date +%s); then=$(stat -c %Z $victim)
date -s @$then >/dev/null; change; touch -r /tmp/times $victim; date -s @$now >/dev/null`,

	// The inode is written on the disk while the kernel does not look.
	"put back ctime with debugfs": `
cp -p $victim /tmp/times; inode=$(stat -c %i $victim)
set -- $(debugfs -R "stat <$inode>" /dev/vdc 2>/dev/null | sed -n 's/^ *ctime: 0x\([0-9a-f]*\):\([0-9a-f]*\).*/\1 \2/p')
was=$(stat -c %z $victim)
change; touch -r /tmp/times $victim
[ "$(stat -c %z $victim)" != "$was" ]
umount /mnt
debugfs -w -R "set_inode_field <$inode> ctime @0x$1" /dev/vdc
debugfs -w -R "set_inode_field <$inode> ctime_extra 0x$2" /dev/vdc
mount /dev/vdc /mnt
[ "$(stat -c %z $victim)" = "$was" ]`,

	"write to the block device": `
sync; inode=$(stat -c %i $victim); at=$(grep -abo MARK $victim | head -n 1 | cut -d: -f1)
block=$(debugfs -R "bmap <$inode> $((at / 4096))" /dev/vdc 2>/dev/null)
printf m | dd of=/dev/vdc bs=1 seek=$((block * 4096 + at % 4096)) conv=notrunc status=none
sync; echo 3 >/proc/sys/vm/drop_caches`,
}

const attackPrelude = `set -eu
change() { at=$(grep -abo MARK $victim | head -n 1 | cut -d: -f1); printf m | dd of=$victim bs=1 seek=$at conv=notrunc status=none; }
`

// outcome is what an attack comes to. Of a caught one the binding's check says
// something that holds the word.
type outcome struct {
	caught string
	again  string // what measuring again finds
	// fails is what the attack itself says where it does not get through.
	fails string
}

// cells are the table of docs/layer-digest.md, section 7, as far as it takes a
// machine.
var cells = []struct {
	class, attack string
	want          outcome
}{
	{"tree", "nothing", outcome{"", "same", ""}},
	{"tree", "write and put back the times", outcome{"ctime", "different", ""}},
	{"tree", "set the clock back, write, set it again", outcome{"clock", "different", ""}},
	{"tree", "put back ctime with debugfs", outcome{"", "different", ""}}, // not caught, as the table says
	{"tree", "write to the block device", outcome{"", "different", ""}},   // not caught, as the table says

	{"blob", "nothing", outcome{"", "same", ""}},
	{"blob", "write and put back the times", outcome{"image file", "different", ""}},
	{"blob", "set the clock back, write, set it again", outcome{"image file", "different", ""}},
	{"blob", "put back ctime with debugfs", outcome{"image file", "different", "target is busy"}},
	{"blob", "write to the block device", outcome{"", "different", ""}}, // not caught, as the table says

	{"verity", "nothing", outcome{"", "same", ""}},
	{"verity", "write and put back the times", outcome{"", "same", "not permitted"}},
	{"verity", "set the clock back, write, set it again", outcome{"", "same", "not permitted"}},
	{"verity", "put back ctime with debugfs", outcome{"", "same", "not permitted"}},
	{"verity", "write to the block device", outcome{"", "input/output error", ""}},
}

func TestVMBindings(t *testing.T) {
	long(t)
	probe, err := made.Tool(t.Context(), "bindprobe")
	skip.On(t, err)
	v, err := vm.New(t.Context(), vm.Options{Disks: []int64{256 << 20}, Files: []vm.File{{Source: probe, Target: "/usr/local/bin/bindprobe"}}})
	skip.On(t, err)
	defer func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}()
	m := machine{&vm.Node{VM: v}, t}
	m.sh("mke2fs -q -t ext4 -b 4096 -O verity /dev/vdc; mount /dev/vdc /mnt; echo 1 >/proc/sys/fs/lease-break-time")
	for _, c := range cells {
		t.Run(c.class+"/"+c.attack, func(t *testing.T) {
			m := machine{m.Node, t}
			path, victim := m.measured(c.class)
			m.sh("cat >/tmp/attack <<'END'\nvictim=%s\n%s%s\nEND", victim, attackPrelude, attacks[c.attack])
			var got struct{ Class, Why, Command, Moved, Again string }
			out := m.sh("bindprobe %s /bin/sh /tmp/attack", path)
			if err := json.Unmarshal([]byte(out), &got); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got.Class != c.class {
				t.Fatalf("bound as %s: %s", got.Class, got.Why)
			}
			if (got.Command == "") != (c.want.fails == "") || !strings.Contains(strings.ToLower(got.Command), c.want.fails) {
				t.Errorf("the attack ended with %q, want %q", got.Command, c.want.fails)
			}
			if (got.Moved == "") != (c.want.caught == "") || !strings.Contains(got.Moved, c.want.caught) {
				t.Errorf("the check says %q, want %q", got.Moved, c.want.caught)
			}
			if !strings.Contains(got.Again, c.want.again) {
				t.Errorf("measuring again: %q, want %q", got.Again, c.want.again)
			}
		})
	}
}

// measured makes something new of a class to measure, and returns it and the
// file to attack.
func (m machine) measured(class string) (path, victim string) {
	m.t.Helper()
	dir := m.sh(`mountpoint -q /mnt || mount /dev/vdc /mnt
dir=$(mktemp -d /mnt/XXXXXX); mkdir $dir/tree; cd $dir/tree
for i in 1 2 3 4 5; do { printf 'MARK %%s ' $i; head -c 20000 /dev/zero | tr '\0' $i; } >file-$i; done
echo $dir`)
	if class == "tree" {
		return dir + "/tree", dir + "/tree/file-3"
	}
	m.sh("cd %s; mkfs.erofs -T0 --quiet image tree; grep -q MARK image; %s", dir,
		map[string]string{"blob": ":", "verity": "fsverity enable image"}[class])
	return dir + "/image", dir + "/image"
}
