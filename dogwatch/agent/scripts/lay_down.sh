# lay_down.sh RUN, given as an argument of sh: unpacks the tar archive on standard input into RUN, after a look at the tools.
for tool in env flock grep head mkdir setsid stat tail tar; do
    command -v "$tool" >/dev/null || { echo "the sandbox has no program $tool" >&2 && exit 127; }
done
umask 077
mkdir -p "$1" && exec tar -xf - --no-same-owner -C "$1"
