#!/usr/bin/env bash
# One node's share of a job: runs the given command and hands SIGUSR1 on to the ranks.
#
# torchrun would die of SIGUSR1, and answers SIGTERM by killing its ranks half a minute later, which is too short for
# a large checkpoint. So torchrun is started deaf to SIGUSR1, and the signal goes to its children: the ranks, which
# save and leave.
set -euo pipefail

(
    trap '' USR1
    exec "$@"
) &
launcher=$!

ranks() { # the launcher's descendants that are Python processes of a rank
    local child
    for child in $(pgrep --parent "$1" || true); do
        if tr '\0' '\n' <"/proc/$child/environ" 2>/dev/null | grep -q '^LOCAL_RANK='; then
            echo "$child"
        else
            ranks "$child"
        fi
    done
}
trap 'pids=$(ranks "$launcher"); [ -z "$pids" ] || kill -USR1 $pids' USR1

status=0
wait "$launcher" || status=$?
while kill -0 "$launcher" 2>/dev/null; do # a trapped signal ends `wait` early
    status=0
    wait "$launcher" || status=$?
done
exit "$status"
