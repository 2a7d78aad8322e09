# poll.sh RUN OFFSET LIMIT PATIENCE
# One line of status, then up to LIMIT bytes of out.jsonl from OFFSET. Waits up to PATIENCE hundredths of a second while there is
# nothing to tell. Files are checked to be regular: the agent could plant a FIFO, and reading that would wait for ever.

poll() {
    cd "$1" || exit 1
    run=. offset=$2 limit=$3 patience=$4
    . ./reap.sh
    now
    until=$((now + patience)) later=$((now + 50)) tick=0.1
    while [ "$now" -lt "$until" ] && [ ! -e exit.json ] && [ "$(size out.jsonl)" -le "$offset" ]; do
        if [ "$now" -ge "$later" ]; then tick=0.3; fi # a silent agent is likely to stay so for a while
        if [ ! -e claim ]; then sleep 0.1
        elif flock -w "$tick" lock true; then break # a free lock: the supervisor has ended
        fi
        now
    done
    status
    if [ -f out.jsonl ]; then tail -c "+$((offset + 1))" out.jsonl | head -c "$limit"; fi
}

# status: life is looked at before exit.json and exit.json before the sizes, so that each statement still holds for the next.
status() {
    claimed=false alive=false exit=null
    if [ -e claim ]; then
        claimed=true
        flock -n lock true || alive=true
    fi
    if [ -f exit.json ]; then exit=$(head -c 1000 exit.json); fi
    printf '{"claimed":%s,"alive":%s,"exit":%s,"size":%d,"err_size":%d}\n' \
        "$claimed" "$alive" "$exit" "$(size out.jsonl)" "$(size err.log)"
}

size() {
    if [ -f "$1" ]; then stat -L -c %s "$1"; else echo 0; fi
}

poll "$@"
exit
