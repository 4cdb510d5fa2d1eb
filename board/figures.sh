# The figures of an emulated board, over TLS, as a row of README's table. Sourced by board/run.
# shellcheck shell=bash disable=SC2034,SC2154,SC2016 # variables of board/run; text for the board

containers=10

# make_certificate: an authority of our own that goes with the directory, and the broker's certificate, for its names here and on the board.
make_certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "${certificate_days:-2}" -subj "/CN=throw-away" -keyout authority.key -out ca.pem
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=broker" -keyout broker.key -out broker.csr
    openssl x509 -req -in broker.csr -CA ca.pem -CAkey authority.key -CAcreateserial -days "${certificate_days:-2}" -out broker.pem \
        -extfile <(echo "subjectAltName=IP:10.0.2.2,IP:127.0.0.1")
}

# Sectors written to the flash since boot, in bytes, after all that waits has been written.
written() { device 'sync; read -r _ _ _ _ _ _ sectors _ </sys/block/vda/stat; echo $((sectors * 512))'; }

apps() { wherry ls --json | jq '[.[] | .containers[] | select(.state == "running")] | length'; }
are_running() { [ "$(apps)" = "$1" ]; }
has_counted() { message "(.containers | length) == $1 and .device.agent_pss > 0"; }
of_wherry() { tail -n 1 stats | jq '.device.agent_pss / 1024 | floor'; }
idle_manifest() {
    jq -nc --arg image "oci:$home/image:1" --arg app "$1" \
        '{wherry: 1, app: $app, containers: {main: {image: {ref: $image}, command: ["/bin/sleep", "100000"]}}}'
}
publish() { mosquitto_pub -h 127.0.0.1 -p "$PORT" -q 1 -r -t "$TOPIC/in/desired/$1" -m "$(idle_manifest "$1")"; }

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

figures() {
    local number before installed unpacked copied alone all each idle_written
    step=figures # for `expected`
    record
    await 20 "a statistics message" message '.device.agent_pss > 0'
    alone=$(of_wherry)
    heading "An image, and the first container"
    before=$(written)
    published=$EPOCHREALTIME
    publish demo
    await 60 "the answer \"running\" for demo" acked running demo
    installed=$(($(written) - before))
    unpacked=$(device "find $home/data/layers -type f -exec stat -c %s {} + | awk '{ sum += \$1 } END { print sum }'")
    before=$(written)
    device "cp -a $home/data/layers $home/data/copy"
    copied=$(($(written) - before))
    device "rm -r $home/data/copy"
    heading "$containers containers"
    for number in $(seq 2 "$containers"); do publish "app$number"; done
    await 120 "$containers running containers" are_running "$containers"
    await 20 "their figures" has_counted "$containers"
    all=$(of_wherry)
    each=$(wherry ls --json | jq -r '.[].containers[].pid' | while read -r number; do
        device "sed -n 's/^Pss: *\([0-9]*\).*/\1/p' /proc/$number/smaps_rollup" </dev/null
    done | awk '{ sum += $1 } END { printf "%d", sum / NR }')
    heading "Idle for $idle s"
    before=$(written)
    sleep "$idle"
    idle_written=$(($(written) - before))
    printf '\n| board | boot to online | message to running | keeper and agent, TLS | with %s containers | a container | written in %s s idle | written for an image | by `cp -a` of the same |\n' \
        "$containers" "$idle"
    printf '|---|---|---|---|---|---|---|---|---|\n'
    printf '| `%s` | %s s | %s s | %s KiB | %s KiB | %s KiB | %s bytes | %s × unpacked | %s × |\n' "$board" \
        "$(since "$started" '.state == "online"')" "$(since "$published" '.app == "demo" and .state == "running"')" "$alone" "$all" "$each" \
        "$idle_written" "$(ratio "$installed" "$unpacked")" "$(ratio "$copied" "$unpacked")"
}
