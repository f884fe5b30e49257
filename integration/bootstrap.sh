#!/bin/sh
# Brings what building and testing Sealift needs to a Debian 12 or 13 machine:
# Debian packages, only those whose command is missing, and the Go toolchain
# that go.mod asks for. Does nothing, quickly, when all is there.
#
#   bootstrap.sh go     only what compiling needs
#   bootstrap.sh test   that, and what making and running test hosts needs
#   bootstrap.sh protoc the compiler for `make generate`
set -eu

repo=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
want=$(sed -n 's/^go //p' "$repo/go.mod")
root=$repo/build/go

say() { printf 'bootstrap: %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# at_least A B: is version A at least version B?
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

go_version() { GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null | sed 's/^go//; s/[ -].*//'; }

updated=
install() {
	if ! have apt-get; then
		say "missing: $*; hint: this machine has no apt-get, install them by hand"
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		say "missing: $*; hint: run once as root, or: apt-get install $*"
		exit 1
	fi
	say "installing $*"
	if [ -z "$updated" ]; then
		apt-get -qq update
		updated=1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >/dev/null
}

# A Go that is older than go.mod wants fetches the right toolchain itself since
# 1.21. Debian 12's 1.19 does not know how, but its module downloader can fetch
# the same module, which then only has to be put in place.
toolchain() {
	if [ -x "$root/bin/go" ] && at_least "$(go_version "$root/bin/go")" "$want"; then
		return
	fi
	if have go && at_least "$(go_version go)" 1.21; then
		return
	fi
	have go || install golang-go ca-certificates
	if at_least "$(go_version go)" 1.21; then
		return
	fi
	module=golang.org/toolchain@v0.0.1-go$want.$(go env GOOS)-$(go env GOARCH)
	say "this machine's Go is $(go_version go); getting $want from the module proxy"
	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	dir=$(cd "$tmp" && go mod download -json "$module" | sed -n 's/^[[:space:]]*"Dir": "\(.*\)",*$/\1/p')
	if [ -z "$dir" ]; then
		say "no $module; hint: GOPROXY is $(go env GOPROXY), try: go mod download $module"
		exit 1
	fi
	mkdir -p "$repo/build"
	rm -rf "$root.new"
	cp -r "$dir" "$root.new"
	# Module archives carry no permission bits.
	chmod -R u+w "$root.new"
	find "$root.new/bin" "$root.new/pkg/tool" -type f -exec chmod 755 {} +
	# Nor nested modules: their files have another name there.
	find "$root.new" -name _go.mod -exec sh -c 'mv "$1" "${1%_go.mod}go.mod"' sh {} \;
	rm -rf "$root"
	mv "$root.new" "$root"
}

packages() {
	need=
	while read -r command package; do
		have "$command" || need="$need $package"
	done <<-LIST
		debootstrap debootstrap
		ip iproute2
		git git
		swtpm swtpm
		swtpm_setup swtpm-tools
		tpm2_quote tpm2-tools
		openssl openssl
		jq jq
	LIST
	# Virtual machines are of this architecture only.
	if [ "$(dpkg --print-architecture)" = amd64 ]; then
		have qemu-system-x86_64 || need="$need qemu-system-x86"
		[ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || need="$need ovmf"
		have mkfs.vfat || need="$need dosfstools"
		have mcopy || need="$need mtools"
	fi
	[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || need="$need debian-archive-keyring"
	[ -e /etc/ssl/certs/ca-certificates.crt ] || need="$need ca-certificates"
	# shellcheck disable=SC2086
	[ -z "$need" ] || install $need
}

# What lies below build/ (a Go, root file systems) is not part of "./...".
fence() {
	mkdir -p "$repo/build"
	[ -e "$repo/build/go.mod" ] || echo "module build" >"$repo/build/go.mod"
}

fence
case ${1:-} in
go) toolchain ;;
test) toolchain && packages ;;
protoc) have protoc || install protobuf-compiler ;;
*)
	say "usage: bootstrap.sh go|test"
	exit 2
	;;
esac
