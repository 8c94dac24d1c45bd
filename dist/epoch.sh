#!/bin/sh
# epoch.sh: prints the date that a package of these sources bears, in seconds since 1970: SOURCE_DATE_EPOCH where it is set, else
# that of the last commit. An archive made by git has the commit's date on every file.
set -eu
cd "$(dirname "$0")/.."
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
	echo "$SOURCE_DATE_EPOCH"
elif [ -e .git ]; then
	git -c safe.directory="$(pwd -P)" log -1 --format=%ct || {
		echo "the date of the last commit is unknown; set SOURCE_DATE_EPOCH" >&2
		exit 1
	}
else
	stat -c %Y Cargo.toml
fi
