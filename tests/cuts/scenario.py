"""What is done to a device while its writes are recorded: the operations, their documents, and everything they need, in one directory."""
import hashlib
import json
import os
import random
import shutil

import images

# The numbers of the versions that cannot run, and that never become healthy: the version before comes back.
BROKEN, UNHEALTHY = 4, 9
FIXED = """
apply web 1 one
apply web 2 one
apply db 1 three
stop web
apply web 3 two
apply web 4 one
stop db
rest 6
start db
upgrade 2
apply web 5 one
rm db
apply db 2 two
apply web 6 three
rest 3
rm web
apply web 7 two
stop web
start web
rm db
apply db 3 one
upgrade 1
apply web 8 two
apply web 9 two
apply web 10 two
rm web
"""


def chosen(seed):
    """The operations of a seed: 0 is the fixed walk, others are random ones with the same verbs."""
    if seed == 0:
        return [line.split() for line in FIXED.split("\n") if line]
    rng, apps, program, out, number = random.Random(seed), {}, 1, [], {"web": 0, "db": 0}
    while len(out) < 32:
        app, verb = rng.choice(["web", "db"]), rng.choices(["apply", "stop", "start", "rm", "upgrade", "rest"], [8, 2, 2, 3, 1, 2])[0]
        if verb == "apply":
            number[app] += 1
            if number[app] in (BROKEN, UNHEALTHY) and app not in apps:
                number[app] += 1
            out.append([verb, app, str(number[app]), rng.choice(["one", "two", "three"])])
            apps[app] = "runs"
        elif verb == "upgrade":
            program = 3 - program
            out.append([verb, str(program)])
        elif verb == "rest":
            out.append([verb, str(rng.randint(1, 6))])
        elif app in apps and not (verb == "start" and apps[app] == "runs") and not (verb == "stop" and apps[app] == "held"):
            out.append([verb, app])
            apps[app] = {"stop": "held", "start": "runs", "rm": None}[verb]
            if verb == "rm":
                del apps[app]
    return out


def document(app, number, image, digest):
    """A version of an app; what it prints names the version and what is in the image."""
    reference = {"ref": f"oci:/mnt/images:{image}"}
    if image == "three":
        reference = {"ref": "http://127.0.0.1:8080/three.tar.gz", "type": "rootfs", "digest": f"sha256:{digest}"}
    script = "echo version $VERSION of $(cat /etc/version); exec sleep 100000"
    command = ["/bin/nothing"] if number == BROKEN else ["/bin/sh", "-c", script]
    main = {"image": reference, "command": command, "env": {"VERSION": str(number)}, "network": {"mode": "host"}}
    if number == UNHEALTHY:
        main["health"] = {"file": "/nothing", "interval": "1s", "retries": 1}
    return json.dumps({"wherry": 1, "app": app, "containers": {"main": main}})


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def write(path, data):
    with open(path, "wb") as out:
        out.write(data)
    return sha256(data)


def make(directory, program, busybox, seed):
    """Fills the directory that becomes /mnt; answers the facts that the oracle needs."""
    os.makedirs(f"{directory}/documents")
    shutil.copytree(os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest"), f"{directory}/guest")
    shutil.copy(busybox, f"{directory}/busybox")
    with open(program, "rb") as file:
        code = file.read()
    sums = [write(f"{directory}/wherry-{n}", code + end) for n, end in [(1, b""), (2, b"\n# the next release\n")]]
    for n, total in enumerate(sums):
        write(f"{directory}/sum-{n + 1}", total.encode())
    os.link(f"{directory}/wherry-1", f"{directory}/wherry")
    for name in ["wherry-1", "wherry-2", "busybox"]:
        os.chmod(f"{directory}/{name}", 0o755)
    digest, layers = images.make(directory, busybox)
    documents, versions = {}, []
    operations = chosen(seed)
    for verb, *words in operations:
        if verb == "apply":
            app, number, image = words
            bytes_ = document(app, int(number), image, digest).encode()
            documents[f"{app}-{number}"] = write(f"{directory}/documents/{app}-{number}.json", bytes_)
            versions.append([[app, int(number)], [image, int(number) in (BROKEN, UNHEALTHY)]])
    lines = [" ".join([str(n), *words[:3]]) for n, words in enumerate(operations)]
    write(f"{directory}/operations", ("\n".join(lines) + "\n").encode())
    return {"sums": sums, "documents": documents, "versions": versions, "layers": layers,
            "operations": [[n, words[0], words[1:]] for n, words in enumerate(operations)]}
