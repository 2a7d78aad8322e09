#!/bin/sh
# slug.sh TITLE: prints the title as a name for a web address.
printf '%s\n' "$1" | tr 'A-Z' 'a-z' | tr ' ' '-'
