# supervise.sh RUN DEADLINE GRACE OUTPUT_LIMIT QUIET COMMAND...
# Runs COMMAND at most once and sees to its end. Times are in hundredths of a second, OUTPUT_LIMIT in bytes; a command that
# writes nothing for QUIET after its result event hangs. Files in RUN: prompt (standard input), out.jsonl and err.log (output),
# lock (held for life), claim/ (taken once, for ever), stop ("REASON GRACE", a request to end), exit.json (written last).

supervise() {
    run=$(cd "$1" && pwd -P) || exit 1
    deadline=$2 grace=$3 output_limit=$4 quiet=$5
    shift 5
    . "$run/reap.sh"
    umask 077
    stopping=
    trap 'stopping=yes' TERM INT
    trap : CHLD # wakes the watch when the command ends
    trap : HUP # caught rather than ignored: the agent would inherit an ignored signal
    claim || exit 0
    if [ -e "$run/stop" ]; then finish null not_started && exit 0; fi
    launch "$@"
    watch
    if [ "$reason" = stopped ]; then read_grace; fi
    end_marked "$grace" # also after a normal end: it may have left something behind
    collect_rc
    finish "$rc" "$reason"
}

# claim: the lock first, so that whoever sees the claim without the lock knows that its owner is dead.
claim() {
    [ ! -e "$run/claim" ] || return 1
    exec 9>"$run/lock"
    flock -w 10 9 && mkdir "$run/claim" 2>/dev/null
}

# launch COMMAND...: in a session of its own, without the lock, with the signals a shell ignores for background jobs restored.
launch() {
    now
    started=$now
    {
        umask 022 # the run's own files are private, the agent's are ordinary ones
        exec env --default-signal "DOGWATCH_ATTEMPT=${run##*/}" "DOGWATCH_RUN=$run" setsid -w "$@"
    } <"$run/prompt" >"$run/out.jsonl" 2>"$run/err.log" 9>&- &
    leader=$!
}

# watch: returns when the command has ended or must end; $reason says why.
watch() {
    reason=exited written=-1 changed=$started
    while kill -0 "$leader" 2>/dev/null; do
        now
        bytes=0
        for size in $(stat -c %s "$run/out.jsonl" "$run/err.log" 2>/dev/null); do bytes=$((bytes + size)); done
        if [ "$bytes" != "$written" ]; then written=$bytes changed=$now; fi
        if [ -n "$stopping" ] || [ -e "$run/stop" ]; then reason=stopped
        elif [ "$((now - started))" -ge "$deadline" ]; then reason=deadline
        elif [ "$bytes" -gt "$output_limit" ]; then reason=output_limit
        elif [ "$((now - changed))" -ge "$quiet" ]; then
            changed=$now
            if ends_with_result; then reason=hung_after_result; fi
        fi
        [ "$reason" = exited ] || break
        sleep 0.4 9>&- &
        wait $! # unlike a plain sleep, ended at once by a signal
    done
    trap - CHLD # it would interrupt the wait for the exit code
}

# ends_with_result: whether the last line is whole and the CLI's result event. Quotes inside JSON strings are escaped, so
# these patterns match keys only.
ends_with_result() {
    [ "$(tail -c 1 "$run/out.jsonl" | wc -l)" = 1 ] &&
        tail -n 1 "$run/out.jsonl" | grep -q '"type": *"result"' &&
        ! tail -n 1 "$run/out.jsonl" | grep -qE '"type": *"(assistant|user|system|stream_event)"'
}

# read_grace: a stop request may bring a grace of its own. The agent could have written it: digits only.
read_grace() {
    asked=
    read -r _ asked <"$run/stop"
    case $asked in
    '' | *[!0-9]* | ???????*) ;;
    *) grace=$asked ;;
    esac
} 2>/dev/null

# collect_rc: 128 + n after signal n; null for a command that even KILL could not end.
collect_rc() {
    rc=null
    if ! kill -0 "$leader" 2>/dev/null; then
        wait "$leader"
        rc=$?
    fi
}

supervise "$@" </dev/null # parsed whole before it runs: later changes of this file do nothing
exit
