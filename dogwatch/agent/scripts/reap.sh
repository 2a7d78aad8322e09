# Finds and ends every process of one run. Sourced by the other scripts; needs $run, the run's absolute directory.
# Times are in hundredths of a second.

# now: the time since boot into $now. /proc/uptime costs no process and never jumps.
now() {
    read -r uptime _ </proc/uptime
    fraction=1${uptime#*.} # the 1 keeps 08 and 09 from being read as octal
    now=$((${uptime%.*} * 100 + fraction - 100))
}

# marked: the run's processes, found by their environment: the agent's tools sit in sessions and groups of their own.
# $leader, where set, counts too, even if it dropped its environment.
marked() {
    for entry in $(grep -lzxF -e "DOGWATCH_RUN=$run" /proc/[0-9]*/environ 2>/dev/null); do
        entry=${entry#/proc/}
        echo "${entry%/environ}"
    done
    if [ -n "${leader:-}" ] && kill -0 "$leader" 2>/dev/null; then echo "$leader"; fi
}

# end_marked GRACE: TERM, after GRACE KILL, until two scans in a row find nothing. What is left is counted in $survivors.
end_marked() {
    now
    patience=$((now + $1)) empty=0 kills=0 told=' '
    while [ "$empty" -lt 2 ] && [ "$kills" -lt 25 ]; do
        pids=$(marked)
        now
        if [ -z "$pids" ]; then
            empty=$((empty + 1)) pause=0.03
        elif [ "$now" -ge "$patience" ]; then
            kill -KILL $pids 2>/dev/null
            empty=0 kills=$((kills + 1)) pause=0.1
        else
            ask_to_end $pids
            empty=0 pause=0.1
        fi
        [ "$empty" -ge 2 ] || sleep "$pause"
    done
    survivors=0
    if [ "$empty" -lt 2 ]; then survivors=$(marked | wc -w); fi
}

# ask_to_end PID...: TERM, once each: a second one would cut short how a process ends by itself.
ask_to_end() {
    for pid; do
        case $told in
        *" $pid "*) ;;
        *) told="$told$pid " && kill -TERM "$pid" 2>/dev/null ;;
        esac
    done
}

# finish RC REASON: exit.json appears whole, and the first one stays.
finish() {
    size=$(stat -c %s "$run/out.jsonl" 2>/dev/null)
    printf '{"rc":%s,"reason":"%s","survivors":%d,"ended_at":%d,"out_bytes":%d}\n' \
        "$1" "$2" "${survivors:-0}" "$(date +%s)" "${size:-0}" >"$run/exit.$$"
    ln "$run/exit.$$" "$run/exit.json" 2>/dev/null || mv -n "$run/exit.$$" "$run/exit.json"
    rm -f "$run/exit.$$"
}
