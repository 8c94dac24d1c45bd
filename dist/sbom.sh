#!/bin/sh
# sbom.sh [FILE]: prints what the programs are made of, as CycloneDX 1.5: every crate that is linked into them, with version, licence,
# checksum of its source and what it depends on; those that only the compiler runs have the scope "excluded". FILE is the package
# that the list is about. Asks nobody but cargo, offline; the same commit and package give the same list.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C
cargo=${CARGO:-cargo}
rustc=${RUSTC:-rustc}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
epoch=$(sh dist/epoch.sh)
hash=
[ $# -eq 0 ] || hash=$(sha256sum < "$1" | cut -d ' ' -f 1)

machine=$(uname -m)-unknown-linux
targets=$machine-gnu
musl=
if [ -d "$("$rustc" --print target-libdir --target "$machine-musl" 2>/dev/null)" ]; then
	targets="$targets $machine-musl" musl=1
fi

# One line for each crate at each place where it is depended on: kind of list, depth, name, version, licence, parted by tabs.
tree() { # list edges
	for target in $targets; do
		"$cargo" tree --locked --offline --quiet -p gotd -p gotsh --target "$target" --edges "$2" \
			--prefix depth --no-dedupe --format '	{p}	{l}' > "$tmp"
		sed -n "s/^\([0-9]*\)	\([^ ]*\) v\([^ 	]*\)[^	]*	\(.*\)/$1	\1	\2	\3	\4/p" "$tmp"
	done
}
tmp=$(mktemp)
lines=$(mktemp)
trap 'rm -f "$tmp" "$lines"' EXIT
tree linked normal,no-proc-macro > "$lines"
tree build normal,build >> "$lines"

awk -F '\t' -v version="$version" -v hash="$hash" -v musl="$musl" \
	-v rust="$("$rustc" -V | cut -d ' ' -f 2)" -v when="$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" '
# Cargo.lock comes first: the checksums.
FNR == NR {
	if (split($0, word, "\"") < 3) next
	if ($0 ~ /^name = /) name = word[2]
	else if ($0 ~ /^version = /) id = name " " word[2]
	else if ($0 ~ /^checksum = /) checksum[id] = word[2]
	next
}
{
	id = $3 " " $4
	names[id] = $3; versions[id] = $4
	# The older way to write it.
	gsub("/", " OR ", $5)
	licences[id] = $5
	if ($1 == "linked") linked[id] = 1
	above[$2] = id
	if ($2 > 0) edges[above[$2 - 1] "\t" id] = 1
}
function text(s) { gsub(/[\\"]/, "\\\\&", s); return "\"" s "\"" }
# Sorts the keys of a table into sorted[1..n].
function sort_keys(table,   key, n, i, j) {
	n = 0
	for (key in table) {
		for (i = n++; i > 0 && sorted[i] > key; i--) sorted[i + 1] = sorted[i]
		sorted[i + 1] = key
	}
	return n
}
END {
	print "{"
	print "  \"bomFormat\": \"CycloneDX\","
	print "  \"specVersion\": \"1.5\","
	print "  \"version\": 1,"
	print "  \"metadata\": {"
	print "    \"timestamp\": " text(when) ","
	printf "    \"component\": {\"type\": \"application\", \"bom-ref\": \"package\", \"name\": \"gotd\", \"version\": %s, \"licenses\": [{\"expression\": \"ISC\"}]", text(version)
	if (hash != "") printf ", \"hashes\": [{\"alg\": \"SHA-256\", \"content\": %s}]", text(hash)
	print "}"
	print "  },"
	print "  \"components\": ["
	n = sort_keys(names)
	for (i = 1; i <= n; i++) {
		id = sorted[i]
		printf "    {\"type\": \"library\", \"bom-ref\": %s, \"name\": %s, \"version\": %s, \"scope\": \"%s\"", text(id), text(names[id]), text(versions[id]), id in linked ? "required" : "excluded"
		if (licences[id] != "") printf ", \"licenses\": [{\"expression\": %s}]", text(licences[id])
		if (id in checksum) printf ", \"hashes\": [{\"alg\": \"SHA-256\", \"content\": %s}], \"purl\": %s", text(checksum[id]), text("pkg:cargo/" names[id] "@" versions[id])
		print "},"
	}
	printf "    {\"type\": \"library\", \"bom-ref\": \"rust-std\", \"name\": \"rust-std\", \"version\": %s, \"scope\": \"required\", \"licenses\": [{\"expression\": \"MIT OR Apache-2.0\"}], \"description\": \"The standard library of Rust and the crates within it\"}", text(rust)
	if (musl) printf ",\n    {\"type\": \"library\", \"bom-ref\": \"musl\", \"name\": \"musl\", \"scope\": \"required\", \"licenses\": [{\"expression\": \"MIT\"}], \"description\": %s}", text("The C library of the statically linked programs, as it comes with Rust " rust)
	print "\n  ],"
	print "  \"dependencies\": ["
	m = sort_keys(edges)
	for (i = 1; i <= m; i++) {
		split(sorted[i], pair, "\t")
		before = pair[1] in depends ? depends[pair[1]] ", " : ""
		depends[pair[1]] = before text(pair[2])
	}
	n = sort_keys(names)
	for (i = 1; i <= n; i++) printf "    {\"ref\": %s, \"dependsOn\": [%s]},\n", text(sorted[i]), depends[sorted[i]]
	printf "    {\"ref\": \"package\", \"dependsOn\": [\"gotd %s\", \"gotsh %s\", \"rust-std\"%s]}\n", version, version, musl ? ", \"musl\"" : ""
	print "  ]"
	print "}"
}' Cargo.lock "$lines"
