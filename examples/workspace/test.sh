#!/bin/sh
# Runs slug.sh on some titles; exits with 1 when one comes out wrong.
failed=0

check() {
    got=$(sh slug.sh "$1")
    if [ "$got" = "$2" ]; then
        echo "ok      $1"
    else
        echo "FAILED  $1: expected $2, got $got"
        failed=1
    fi
}

check "Night Watch" "night-watch"
check "Hello,  World!" "hello-world"

exit "$failed"
