# stop.sh RUN REASON GRACE, read from standard input after reap.sh: works also where nothing was laid down yet.
# Ends the run, or takes its claim so that it never starts, and prints {"found","survivors"}. Safe to repeat. GRACE is in
# hundredths of a second.

stop() {
    umask 077
    mkdir -p "$1"
    run=$(cd "$1" && pwd -P) || exit 1
    grace=$3 found=running
    if [ -f "$run/exit.json" ]; then
        found=ended
    else
        printf '%s %s\n' "$2" "$grace" >"$run/stop.$$" && mv "$run/stop.$$" "$run/stop"
        await_end
    fi
    end_marked 0 # what survived until here gets no further grace
    printf '{"found":"%s","survivors":%d}\n' "$found" "$survivors"
}

# await_end: the supervisor sees the request and writes exit.json; a lock that becomes free without it is a supervisor that is
# dead or never came, and one that does not answer in time is as good as dead.
await_end() {
    exec 9>"$run/lock"
    now
    until=$((now + grace + 500))
    until [ -f "$run/exit.json" ]; do
        if flock -w 0.1 9 || [ "$now" -ge "$until" ]; then
            settle
            return
        fi
        now
    done
}

settle() {
    if [ -f "$run/exit.json" ]; then return; fi
    if mkdir "$run/claim" 2>/dev/null; then
        found=not_started
        finish null not_started
    else
        found=lost
        end_marked "$grace"
        finish null supervisor_lost
    fi
}

stop "$@" </dev/null # parsed whole, and nothing below may read this script as its input
exit
