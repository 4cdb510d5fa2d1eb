# The main job, step by step. Sourced by board/run.
# shellcheck shell=bash disable=SC2016,SC2154 # Commands are printed as they are typed, with the names of variables, and then run by eval.

step=0

walk() {
    record
    step_apply
    step_statistics
    step_limit
    step_bad_manifest
    step_memory_hog
    step_recovery
    step_tombstone
    step_again
}

# next TITLE: begins a step.
next() {
    step=$((step + 1))
    heading "$step. $1"
}

# show COMMAND: prints it and runs it.
show() {
    printf '\n$ %s\n' "$1"
    eval "$1" || expected "that command to succeed"
}

# shown_to_fail STATUS COMMAND: the same for a command that must end with this status.
shown_to_fail() {
    local status=0
    printf '\n$ %s\n' "$2"
    eval "$2" || status=$?
    [ "$status" = "$1" ] || expected "that command to end with status $1, not $status"
}

# expected WHAT: a step did not show what it should.
expected() {
    printf '\nboard/run: step %s failed: expected %s\n' "$step" "$1" >&2
    [ ! -s "$directory/acks" ] || { echo "the last answers:"; tail -n 5 "$directory/acks"; } >&2
    { echo "keeper's last words:"; device "tail -n 20 '$home/keeper.log'" || true; } >&2
    exit 1
}

# Keeps what the device publishes, for the checks.
record() {
    apart mosquitto_sub -h 127.0.0.1 -p "$PORT" -q 1 -t "$TOPIC/out/ack/+" >acks
    apart mosquitto_sub -h 127.0.0.1 -p "$PORT" -t "$TOPIC/out/stats" >stats
    apart mosquitto_sub -h 127.0.0.1 -p "$PORT" -q 1 -t "$TOPIC/out/reported" >reported
    apart mosquitto_sub -h 127.0.0.1 -p "$PORT" -q 1 -F '%U %p' -t "$TOPIC/out/presence" -t "$TOPIC/out/ack/+" >times
    await 15 "the agent online" online
}

# ---- what the checks look at ----

online() { wherry status --json | jq -e '.link.state == "online"'; }
# acked STATE APP: the last answer about the app says so.
acked() { jq -se --arg app "$2" --arg state "$1" 'map(select(.app == $app)) | last | .state == $state' acks; }
reported_running() { tail -n 1 reported | jq -e --arg app "$1" '.apps[$app].containers.main.state == "running"'; }
# container FIELD: of the container that the walk is about.
container() { wherry ls --json | jq -r --arg field "$1" '.[] | select(.app == "demo") | .containers[0][$field]'; }
# figure PATH [NAME]: out of the command line's statistics.
figure() { wherry stats --json | jq -r --arg name "${2:-demo/main}" ".containers[\$name]$1"; }
# message FILTER: holds for the last statistics message. Of no message at all, jq would say yes.
message() { [ -s stats ] && tail -n 1 stats | jq -e "$1"; }
same_pid() { [ "$(container pid)" = "$pid" ] || expected "the container to be process $pid still, it is $(container pid)"; }

# A process that has ended but was not waited for (a machine whose pid 1 reaps nobody) does not live.
lives() { device "grep -qs '^State:[[:space:]]*[^ZX[:space:]]' /proc/$1/status"; }

# ---- the steps ----

step_apply() {
    next "A manifest goes to the broker with plain mosquitto_pub; the device answers, and the container runs"
    manifest 64M 0.5 >demo.json
    show 'jq . demo.json'
    published=$EPOCHREALTIME
    show 'mosquitto_pub -h 127.0.0.1 -p $PORT -q 1 -r -t $TOPIC/in/desired/demo -f demo.json'
    await 30 "the answer \"running\" for demo" acked running demo
    await 10 "demo/main running in $TOPIC/out/reported" reported_running demo
    printf '\nWhat `mosquitto_sub -h 127.0.0.1 -p $PORT -t "$TOPIC/out/ack/+"` has seen, with jq:\n'
    show "jq -c '{app, state, detail} | del(..|nulls)' acks"
    show "mosquitto_sub -h 127.0.0.1 -p \$PORT -t \$TOPIC/out/reported -C 1 -W 10 | jq '{about, apps}'"
    show 'wherry ls'
    pid=$(container pid)
}

manifest() {
    jq -n --arg image "oci:$home/image:1" --arg memory "$1" --argjson quota "$2" '{wherry: 1, app: "demo", containers: {main: {
        image: {ref: $image}, command: ["/bin/sh", "-c", "while :; do :; done"],
        resources: {memory: {max: $memory}, cpu: {quota: $quota}, pids: {max: 16}}}}}'
}

step_statistics() {
    next "Statistics: a live table, and the message that goes over MQTT every $(setting interval_s) seconds"
    show 'timeout 7 wherry stats --watch 2 | cat || true'
    show 'mosquitto_sub -h 127.0.0.1 -p $PORT -t $TOPIC/out/stats -C 1 -W 10 | jq .'
    await 10 "a statistics message with the figures of demo/main" message \
        '.containers["demo/main"] | .cpu.usage_us > 0 and .memory.current > 0 and .memory.max == 67108864 and .pids.current >= 1'
}

step_limit() {
    next "A changed limit: CPU from 0.5 to 0.2, memory from 64M to 48M; the same process goes on"
    local before
    before=$(figure .cpu.percent)
    manifest 48M 0.2 >demo.json
    show 'mosquitto_pub -h 127.0.0.1 -p $PORT -q 1 -r -t $TOPIC/in/desired/demo -f demo.json'
    await 15 "memory.max of 48M in the statistics message" message '.containers["demo/main"].memory.max == 50331648'
    await 20 "less than 25 % of a CPU" slower_than 25
    show 'wherry stats'
    printf '\nCPU%% was %.1f, now %.1f; throttled for %.1f s so far; process %s as before.\n' \
        "$before" "$(figure .cpu.percent)" "$(figure .cpu.throttled_us/1e6)" "$(container pid)"
    await 10 "a growing count of throttled periods" message '.containers["demo/main"].cpu.nr_throttled > 0'
    same_pid
}

slower_than() { figure .cpu.percent | jq -e --argjson limit "$1" '. < $limit'; }

step_bad_manifest() {
    next "A bad manifest is refused with its reason, its place and a hint; what runs is left alone"
    sed 's/"max": "48M"/"maximum": "48M"/' demo.json >bad.json
    shown_to_fail 65 'wherry validate bad.json'
    show 'mosquitto_pub -h 127.0.0.1 -p $PORT -q 1 -t $TOPIC/in/desired/demo -f bad.json'
    await 10 "the answer \"rejected\" for demo" acked rejected demo
    show "tail -n 1 acks | jq '{state, reason, detail}'"
    tail -n 1 acks | jq -e '.reason == "unknown_field" and .detail.path == "containers.main.resources.memory.maximum"' >/dev/null ||
        expected "the reason unknown_field and the path of the field"
    same_pid
}

hog_wants=64 hog_may=16 # MiB; more than the whole machine has the kernel refuses at once, without a kill

step_memory_hog() {
    next "A program that wants $hog_wants MiB where $hog_may are allowed: the kernel kills it, and the kill is counted"
    jq -n --arg image "oci:$home/image:1" --arg wants "$hog_wants" --arg may "${hog_may}M" '{wherry: 1, app: "hog", containers: {main: {
        image: {ref: $image},
        command: ["/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=\($wants)M count=1; echo \"dd ended with status $?\"; exec sleep 3600"],
        resources: {memory: {max: $may, swap: 0}}}}}' >hog.json
    show 'mosquitto_pub -h 127.0.0.1 -p $PORT -q 1 -r -t $TOPIC/in/desired/hog -f hog.json'
    await 30 "the answer \"running\" for hog" acked running hog
    await 15 "one counted kill in the statistics message" message '.containers["hog/main"].memory.oom_kill == 1'
    show 'wherry logs hog'
    show "tail -n 1 stats | jq -c '.containers | map_values(.memory)'"
    same_pid
}

step_recovery() {
    next "kill -9 of agent, then of keeper: the container does not notice"
    local agent keeper uptime
    uptime=$(container uptime_s)
    agent=$(wherry status --json | jq .agent.pid)
    show "${remote}kill -9 $agent                # the agent"
    await 20 "another agent, online" replaced .agent.pid "$agent"
    keeper=$(wherry status --json | jq .pid)
    show "${remote}kill -9 $keeper                # keeper; the loop in ./supervise starts another"
    await 20 "another keeper, and its agent online" replaced .pid "$keeper"
    show 'wherry ls'
    same_pid
    await 5 "an uptime above $uptime s" older_than "$uptime"
    [ "$(container restarts)" = 0 ] || expected "no restart"
    printf '\nProcess %s all the time; up %s s before, %s s now, no restart.\n' "$pid" "$uptime" "$(container uptime_s)"
}

# replaced FIELD OLD: `wherry status` shows another process there, and the link is up.
replaced() { wherry status --json | jq -e --argjson old "$2" "($1 | . != null and . != \$old) and .link.state == \"online\""; }
older_than() { [ "$(container uptime_s)" -gt "$1" ]; }

step_tombstone() {
    next "A tombstone for each app: all is gone"
    local app
    for app in demo hog; do
        printf '{"wherry": 1, "app": "%s", "remove": true}\n' "$app" >"no-$app.json"
        show "mosquitto_pub -h 127.0.0.1 -p \$PORT -q 1 -r -t \$TOPIC/in/desired/$app -f no-$app.json"
        await 30 "the answer \"removed\" for $app" acked removed "$app"
    done
    show "tail -n 1 acks | jq -c '{app, state}'"
    await 10 "no process, control group, mount or image left" all_gone
    show 'wherry ls'
    show "${remote}find /sys/fs/cgroup/ -path '*/$group/*' -type d"
    show "${remote}grep -c $home/ /proc/self/mountinfo         # keeper's own tmpfs, the same before, during and after"
    show "${remote}find $home/data/layers $home/data/images -mindepth 1"
}

all_gone() {
    [ "$(wherry ls --json)" = "[]" ] && ! lives "$pid" &&
        [ -z "$(device "find /sys/fs/cgroup/ -path '*/$group/*' -type d")" ] &&
        [ "$(device "grep -c $home/ /proc/self/mountinfo")" = 1 ] &&
        [ -z "$(device "find $home/data/layers $home/data/images -mindepth 1")" ]
}

step_again() {
    next "And once more: the device takes the same app as a new one"
    show 'mosquitto_pub -h 127.0.0.1 -p $PORT -q 1 -r -t $TOPIC/in/desired/demo -f demo.json'
    await 30 "the answer \"running\" for demo" acked running demo
    # Not the message from before the tombstones, in which hog still is.
    await 15 "demo alone in the statistics message" message '.containers | keys == ["demo/main"] and .["demo/main"].cpu.usage_us > 0'
    pid=$(container pid)
}

# ---- the end ----

# since TIME FILTER: seconds from TIME to the first message that holds, by the clock of this machine.
since() {
    sed 's/^\([0-9.]*\) \(.*\)/[\1,\2]/' times | jq -rs --argjson from "$1" \
        "map(select(.[0] >= \$from and (.[1] | $2)))[0][0] - \$from | . * 100 | round / 100"
}

# memory NAME BUDGET KIB: a row of the summary; beyond the board's budget, if it has one, the walk has failed. Times have none: machines differ.
memory() {
    local budget
    budget=$(toml "../board/$board.toml" budgets "$2")
    printf '%-22s %s KiB PSS%s\n' "$1" "$3" "${budget:+ (budget $budget)}"
    [ "$3" -le "${budget:-$3}" ] || expected "at most $budget KiB for $1"
}

summary() {
    heading "Done, in $((SECONDS / 60)) min $((SECONDS % 60)) s"
    printf '%-22s %s s\n' "$begun_with to online" "$(since "$started" '.state == "online"')"
    printf '%-22s %s s\n' "message to running" "$(since "$published" '.app == "demo" and .state == "running"')"
    memory "keeper and agent" agent_pss_kib "$(tail -n 1 stats | jq '.device.agent_pss / 1024 | floor')"
    memory "per container" container_pss_kib "$(device "sed -n 's/^Pss: *\([0-9]*\).*/\1/p' /proc/$pid/smaps_rollup")"
    printf '%-22s %s bytes\n' "the binary" "$(stat -L -c %s "$binary")"
    cat <<TEXT

In another terminal, after the two lines at the top:

    wherry ls                                    what runs
    wherry status                                the link, and why it is not online if it is not
    wherry logs demo; wherry info demo           its output, and its settings in force
    wherry exec $in_container
    wherry run --rm oci:$home/image:1 uname -a
    mosquitto_sub -h 127.0.0.1 -p \$PORT -v -t "\$TOPIC/#"
TEXT
}

wait_for_the_end() {
    printf '\nThe app demo runs on. Ctrl-C ends everything and leaves nothing behind.\n'
    patiently sleep infinity
}
