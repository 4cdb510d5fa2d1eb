//! Images from a path on the device into the store: real ones, made by umoci and skopeo and compared with `umoci unpack` through a
//! real overlay mount, and what goes wrong on the way. Archives that are hostile by themselves are in `tests/hostile.rs`.
//!
//! Needs root and the programs umoci, skopeo, zstd, setcap, setfattr, getfattr, tar, mkfs.ext4 and a static busybox.

#[path = "image/bench.rs"]
mod bench;
#[path = "image/tarball.rs"]
mod tarball;

use bench::{Bench, Layout, docker_archive, in_mount_namespace, overlay, run, tree};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tarball::{Entry, tar};
use wherry::image::store::Store;
use wherry::image::{Digest, Form, Source};
use wherry::ipc::{FromStage, StageJob};
use wherry::protocol::Reason;

// ---- real images ----

/// Fills a root file system with everything that is easily lost.
fn furnish(root: &Path) {
    let script = r#"
        mkdir -p bin etc/deep/er tmp var/lib dev home/user
        cp "$(command -v busybox)" bin/busybox
        for n in sh ls cat; do ln bin/busybox bin/$n; done
        ln -s /bin/busybox bin/absolute; ln -s ../etc/passwd home/link; ln -s nowhere dangling; ln dangling dangling-too
        ln -s "$(printf 'l%.0s/' $(seq 1 150))" long-link
        echo root:x:0:0::/:/bin/sh > etc/passwd; chmod 640 etc/passwd; chown 0:42 etc/passwd
        chmod 1777 tmp; chmod 4755 bin/cat; chmod 2750 home/user; chown 70000:1234567 home/user
        echo big > var/big-id; chown 4294967294:3000000000 var/big-id
        cp bin/busybox bin/ping; setcap cap_net_raw+ep bin/ping
        echo x > var/xattr; setfattr -n user.note -v "line
two" var/xattr
        mkfifo -m 600 var/fifo
        long=$(printf 'n%.0s' $(seq 1 200)); mkdir -p var/$long/$long; echo deep > var/$long/$long/$long
        head -c 300000 /dev/urandom > var/random; : > var/empty
        touch -d '2001-02-03 04:05:06' etc/passwd var/empty home/user; touch -h -d '1999-01-01' dangling; touch -d '2005-05-05' etc/deep
    "#;
    run("sh", &["-euc", script], root);
}

/// An OCI layout with three layers, with whiteouts, replaced types, and an opaque directory.
fn layered(bench: &Bench) -> String {
    let layout = bench.path("layout");
    let image = format!("{layout}:v1");
    let umoci = |args: &[&str]| run("umoci", args, bench.dir());
    umoci(&["init", "--layout", &layout]);
    umoci(&["new", "--image", &image]);
    let settings: &[&str] = &["--config.entrypoint", "/bin/sh", "--config.cmd", "-c", "--config.cmd", "true", "--config.env", "A=1"];
    let more: &[&str] = &["--config.user", "7:8", "--config.workingdir", "/tmp", "--config.stopsignal", "SIGQUIT"];
    umoci(&[&["config", "--image", &image][..], settings, more].concat());
    umoci(&["unpack", "--image", &image, "bundle1"]);
    furnish(&bench.dir().join("bundle1/rootfs"));
    umoci(&["repack", "--image", &image, "bundle1"]);
    umoci(&["unpack", "--image", &image, "bundle2"]);
    let change = r#"
        rm var/random; rm -r etc/deep; rm dangling; mkdir dangling; echo in > dangling/file
        rm -r home/user; echo file > home/user; echo more >> etc/passwd; chmod 700 var; mkdir new; echo n > new/n
    "#;
    run("sh", &["-euc", change], &bench.dir().join("bundle2/rootfs"));
    umoci(&["repack", "--image", &image, "bundle2"]);
    fs::create_dir(bench.dir().join("only")).unwrap();
    fs::write(bench.dir().join("only/this"), "this").unwrap();
    umoci(&["insert", "--image", &image, "--opaque", "only", "/bin"]);
    layout
}

fn oci(path: &str, tag: &str) -> Source {
    Source::OciDir { path: path.to_owned(), tag: Some(tag.to_owned()) }
}

#[test]
fn an_image_of_several_layers_looks_as_umoci_unpacks_it_in_every_form_and_compression() {
    let bench = Bench::new("forms");
    let layout = layered(&bench);
    run("umoci", &["unpack", "--image", &format!("{layout}:v1"), "reference"], bench.dir());
    let expected = tree(&bench.dir().join("reference/rootfs"));
    let (oci_tar, docker_tar) = (bench.path("oci.tar"), bench.path("docker.tar"));
    let from = format!("oci:{layout}:v1");
    run("skopeo", &["--insecure-policy", "copy", "-q", &from, &format!("oci-archive:{oci_tar}:v1")], bench.dir());
    run("skopeo", &["--insecure-policy", "copy", "-q", &from, &format!("docker-archive:{docker_tar}:app:v1")], bench.dir());
    let forms = [
        ("oci", oci(&layout, "v1")),
        ("oci-archive", Source::OciArchive { path: oci_tar.clone(), tag: Some("v1".into()) }),
        ("docker-archive", Source::DockerArchive { path: docker_tar.clone(), name: Some("app:v1".into()) }),
        ("zstd", oci(&bench.recompressed(&layout, "zstd"), "v1")),
        ("none", oci(&bench.recompressed(&layout, "cat"), "v1")),
    ];
    let zipped = bench.piped("oci.tar.gz", &fs::read(&oci_tar).unwrap(), "gzip");
    let downloads = [
        ("http-oci-archive", Form::OciArchive, oci_tar.clone()),
        ("http-docker-archive", Form::DockerArchive, docker_tar.clone()),
        ("http-oci-archive-gz", Form::OciArchive, zipped),
    ];
    let data = |form: &str| bench.dir().join(format!("data-{form}"));
    let local = forms.map(|(form, source)| (form, bench.stage_in(&data(form), source, |_| {})));
    let remote = downloads.map(|(form, kind, path)| (form, bench.fetch_in(&data(form), kind, &fs::read(path).unwrap(), |_| {})));
    for (form, answer) in local.into_iter().chain(remote) {
        let data = data(form);
        let record = answer.unwrap_or_else(|f| panic!("{form}: {f:?}"));
        assert_eq!(record.layers.len(), 3, "{form}");
        assert_eq!(
            (&record.config.entrypoint[..], &record.config.env[..]),
            (&["/bin/sh".to_owned()][..], &["A=1".to_owned()][..]),
            "{form}"
        );
        let rest = (record.config.cmd.join(" "), record.config.user.as_str(), record.config.workdir.as_str(), record.config.stop_signal);
        assert_eq!(rest, ("-c true".to_owned(), "7:8", "/tmp", Some(3)), "{form}");
        let store = Store::open(&data).unwrap();
        assert_eq!(store.record(&record.digest).unwrap().as_ref(), Some(&record), "{form}");
        let found = overlay(&data, &store.layer_dirs(&record), tree);
        bench::same(form, &expected, &found);
    }
}

#[test]
fn a_plain_tar_file_becomes_the_tree_that_tar_makes_of_it() {
    let bench = Bench::new("plain");
    let (root, by_tar) = (bench.dir().join("root"), bench.dir().join("by-tar"));
    for dir in [&root, &by_tar] {
        fs::create_dir(dir).unwrap();
    }
    furnish(&root);
    fs::write(root.join(".wh.literal"), "a plain tar file has no whiteouts").unwrap();
    let keep = ["--numeric-owner", "--xattrs", "--xattrs-include=*"];
    for (format, pipe) in [("pax", "cat"), ("pax", "gzip"), ("pax", "zstd"), ("pax", "zstd -19"), ("gnu", "gzip")] {
        let name = format!("{format}-{}", pipe.replace(' ', ""));
        let file = bench.path(&name);
        let options = if format == "pax" { keep.join(" ") } else { "--numeric-owner --format=gnu".to_owned() };
        run("sh", &["-euc", &format!("tar -c {options} . | {pipe} > {file}")], &root);
        let data = bench.dir().join(format!("data-{name}"));
        let record = bench.stage_in(&data, Source::Rootfs { path: file.clone() }, |_| {}).unwrap_or_else(|f| panic!("{name}: {f:?}"));
        assert_eq!(record.digest, Digest::of(&fs::read(&file).unwrap()), "{name}: the file's digest is the image's");
        let layer = data.join(&Store::open(&data).unwrap().layer_dirs(&record)[0]);
        let mut expected = tree(&root);
        if format == "gnu" {
            // This format keeps neither extended attributes nor parts of a second.
            expected = bench::without_xattrs_and_fractions(&expected);
            bench::same(&name, &expected, &bench::without_xattrs_and_fractions(&tree(&layer)));
        } else {
            bench::same(&name, &expected, &tree(&layer));
        }
    }
}

#[test]
fn docker_save_archives_old_and_new_are_read() {
    let bench = Bench::new("docker");
    let (a, b) = (tar(&[Entry::file("a", b"A")]), tar(&[Entry::file("b", b"B"), Entry::file(".wh.a", b"")]));
    let config = bench::config(&[&a, &b, &a]);
    let hex = |bytes: &[u8]| Digest::of(bytes).hex();
    let old = tar(&[
        Entry::dir("1/"),
        Entry::file("1/VERSION", b"1.0"),
        Entry::file("1/layer.tar", &a),
        Entry::file("2/layer.tar", &b),
        Entry::symlink("3/layer.tar", "../1/layer.tar"),
        Entry::file(&format!("{}.json", hex(&config)), &config),
        Entry::file("manifest.json", &docker_archive(&format!("{}.json", hex(&config)), &["1/layer.tar", "2/layer.tar", "3/layer.tar"])),
    ]);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let names = [blob(&a), blob(&b), blob(&a)];
    let new = tar(&[
        Entry::file(&blob(&a), &a),
        Entry::file(&blob(&b), &b),
        Entry::file(&blob(&config), &config),
        Entry::file("manifest.json", &docker_archive(&blob(&config), &names.each_ref().map(String::as_str))),
    ]);
    for (name, bytes) in [("old", old), ("new", new)] {
        let file = bench.file(name, &bytes);
        let data = bench.dir().join(format!("data-{name}"));
        let pin = Some(Digest::of(&config));
        let record = bench.stage_in(&data, Source::DockerArchive { path: file, name: None }, |j| j.digest = pin).unwrap();
        assert_eq!(record.digest, Digest::of(&config), "the configuration's digest is the image's");
        // The bottom layer comes again on top: only that one is kept, and its file shows in spite of the whiteout below.
        assert_eq!(record.layers, [Digest::of(&b), Digest::of(&a)]);
        let fetched = bench.fetch_in(&data, Form::DockerArchive, &bytes, |_| {}).unwrap();
        assert_eq!((fetched.layers.len(), &fetched.config), (2, &record.config), "in one pass");
        for record in [&record, &fetched] {
            let files = overlay(&data, &Store::open(&data).unwrap().layer_dirs(record), bench::names);
            assert_eq!(files, BTreeSet::from(["a".into(), "b".into()]));
        }
    }
}

#[test]
fn directories_without_an_entry_look_as_in_the_layer_below() {
    let bench = Bench::new("implied");
    let below =
        tar(&[Entry::dir("./").mode(0o711).owner(5, 6), Entry::dir("tmp/").mode(0o1777), Entry::dir("home/").mode(0o700).owner(9, 9)]);
    let above = tar(&[Entry::file("tmp/new", b"x"), Entry::file("home/.wh.old", b"")]);
    let layout = Layout::new(&bench, &[&below, &above]).write("layout");
    let record = bench.stage(oci(&layout, "t"), |_| {}).unwrap();
    let look = |root: &Path| ["", "tmp", "home"].map(|p| bench::mode_and_owner(&root.join(p)));
    let found = overlay(&bench.data(), &bench.store().layer_dirs(&record), look);
    assert_eq!(found, [(0o711, 5, 6), (0o1777, 0, 0), (0o700, 9, 9)]);
}

#[test]
fn a_whiteout_hides_only_what_is_below_its_layer() {
    let bench = Bench::new("whiteout");
    let below = tar(&[Entry::dir("d/"), Entry::file("d/old", b""), Entry::file("f", b"old"), Entry::dir("e/"), Entry::file("e/old", b"")]);
    // In one layer: a name and its whiteout, in both orders, and a whiteout of what never was.
    let above = tar(&[
        Entry::file(".wh.d", b""),
        Entry::dir("d/"),
        Entry::file("d/new", b""),
        Entry::file("f", b"new"),
        Entry::file(".wh.f", b""),
        Entry::file("e/new", b""),
        Entry::file("e/.wh..wh..opq", b""),
        Entry::file("e/.wh.never", b""),
        Entry::file(".wh..wh.plnk/1.2", b"bookkeeping of aufs"),
    ]);
    let record = bench.stage(oci(&Layout::new(&bench, &[&below, &above]).write("l"), "t"), |_| {}).unwrap();
    let look = |root: &Path| (["", "d", "e"].map(|n| bench::names(&root.join(n))), fs::read_to_string(root.join("f")).unwrap());
    let (found, content) = overlay(&bench.data(), &bench.store().layer_dirs(&record), look);
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(found, [set(&["d", "e", "f"]), set(&["new"]), set(&["new"])]);
    assert_eq!(content, "new");
}

#[test]
fn a_layer_with_an_opaque_root_hides_all_layers_below() {
    let bench = Bench::new("opaque-root");
    let (below, above, top) = (
        tar(&[Entry::file("old", b"")]),
        tar(&[Entry::file(".wh..wh..opq", b""), Entry::file("new", b"")]),
        tar(&[Entry::file("top", b"")]),
    );
    let layout = Layout::new(&bench, &[&below, &above, &top]).write("l");
    for _ in 0..2 {
        let record = bench.stage(oci(&layout, "t"), |_| {}).unwrap();
        assert_eq!(record.layers, [Digest::of(&above), Digest::of(&top)]);
        let found = overlay(&bench.data(), &bench.store().layer_dirs(&record), bench::names);
        assert_eq!(found, BTreeSet::from(["new".into(), "top".into()]));
        // The second time the layers are there already, but not the record.
        fs::remove_file(bench.data().join("images").join(record.digest.hex())).unwrap();
    }
}

#[test]
fn layers_that_two_images_share_are_stored_once_and_go_with_the_last_one() {
    let bench = Bench::new("shared");
    let (base, one, two) = (tar(&[Entry::file("base", b"b")]), tar(&[Entry::file("one", b"1")]), tar(&[Entry::file("two", b"2")]));
    let first = bench.stage(oci(&Layout::new(&bench, &[&base, &one]).write("l1"), "t"), |_| {}).unwrap();
    let base_dir = bench.data().join(&bench.store().layer_dirs(&first)[0]);
    let inode = bench::inode(&base_dir);
    let second = bench.stage(oci(&Layout::new(&bench, &[&base, &two]).write("l2"), "t"), |_| {}).unwrap();
    assert_eq!(first.layers[0], second.layers[0]);
    assert_eq!(bench::inode(&base_dir), inode, "the shared layer was not unpacked again");
    assert_eq!(second.unpacked, 2, "a layer that was there counts as well");
    let store = bench.store();
    assert_eq!((store.usage().unwrap().images, store.usage().unwrap().layers), (2, 3));
    let freed = store.collect_garbage(&[second.digest]).unwrap();
    assert_eq!((freed.images, freed.layers), (1, 1));
    assert!(store.record(&first.digest).unwrap().is_none());
    assert_eq!(store.record(&second.digest).unwrap(), Some(second));
    let freed = store.collect_garbage(&[]).unwrap();
    assert_eq!((freed.images, freed.layers), (1, 2));
    bench.store_is_empty();
}

#[test]
fn an_image_that_is_there_is_not_read_again() {
    let bench = Bench::new("again");
    let layout = Layout::new(&bench, &[&tar(&[Entry::file("f", b"f")])]).write("l");
    let first = bench.stage(oci(&layout, "t"), |_| {}).unwrap();
    let blob = format!("{layout}/blobs/sha256/{}", first.layers[0].hex());
    let length = fs::metadata(&blob).unwrap().len();
    fs::write(&blob, vec![0xff; length as usize]).unwrap();
    assert_eq!(bench.stage(oci(&layout, "t"), |_| {}).unwrap(), first);
    fs::remove_dir_all(&layout).unwrap();
    let pin = Some(first.digest);
    assert_eq!(bench.stage(oci(&layout, "t"), |j| j.digest = pin).unwrap(), first, "a pinned image needs no source");
}

#[test]
fn garbage_of_any_depth_is_collected_and_links_in_it_are_not_followed() {
    let bench = Bench::new("garbage");
    let store = bench.store();
    let outside = bench.file("outside", b"stays");
    fs::create_dir(bench.dir().join("kept")).unwrap();
    for dir in [bench.data().join("staging"), bench.data().join("layers")] {
        bench::dig(&dir, 1500);
        fs::create_dir_all(dir.join("00/0")).unwrap();
        fs::write(dir.join("00/0/f"), vec![1; 8192]).unwrap();
        std::os::unix::fs::symlink(bench.dir(), dir.join("00/0/link")).unwrap();
        fs::hard_link(&outside, dir.join("00/0/hard")).unwrap();
    }
    let freed = store.collect_garbage(&[]).unwrap();
    assert!(freed.bytes >= 2 * 8192, "{freed:?}");
    bench.store_is_empty();
    assert_eq!(fs::read(&outside).unwrap(), b"stays");
    assert!(bench.dir().join("kept").exists());
}

#[test]
fn a_damaged_record_is_replaced_by_bringing_the_image_in_again() {
    let bench = Bench::new("record");
    let layout = Layout::new(&bench, &[&tar(&[Entry::file("f", b"f")])]).write("l");
    let first = bench.stage(oci(&layout, "t"), |_| {}).unwrap();
    fs::write(bench.data().join("images").join(first.digest.hex()), b"").unwrap();
    assert_eq!(bench.store().record(&first.digest).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(bench.stage(oci(&layout, "t"), |_| {}).unwrap(), first);
    assert_eq!(bench.store().record(&first.digest).unwrap(), Some(first));
}

// ---- what is refused ----

#[test]
fn a_zstd_window_of_8_mib_fits_in_memory_and_a_larger_one_is_refused() {
    let bench = Bench::new("window");
    let noise: Vec<u8> = (0..6_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let plain = tar(&[Entry::file("noise", &noise)]);
    let good = bench.piped("good", &plain, "zstd -1 --zstd=wlog=23");
    assert_eq!(bench.stage(Source::Rootfs { path: good }, |_| {}).unwrap().unpacked, 24_000_000);
    let large = bench.piped("large", &plain, "zstd -1 --zstd=wlog=24");
    let (reason, message) = bench.stage(Source::Rootfs { path: large }, |_| {}).unwrap_err();
    assert_eq!(reason, Reason::HostileArchive, "{message}");
    assert!(message.contains("window"), "{message}");
}

#[test]
fn an_index_in_an_index_leads_to_the_image_for_this_machine() {
    let bench = Bench::new("nested");
    let layer = tar(&[Entry::file("f", b"f")]);
    let record = bench.stage(oci(&Layout::new(&bench, &[&layer]).nested().write("l"), "t"), |_| {}).unwrap();
    assert_eq!(record.layers, [Digest::of(&layer)]);
    let pin = Some(record.digest);
    assert_eq!(bench.stage(oci(&bench.path("l"), "t"), |j| j.digest = pin).unwrap(), record);
}

#[test]
fn indexes_nested_deeper_than_four_are_refused() {
    let bench = Bench::new("nests");
    let layer = tar(&[Entry::file("f", b"f")]);
    let nested = |levels: usize| (0..levels).fold(Layout::new(&bench, &[&layer]), |layout, _| layout.nested());
    assert!(bench.stage(oci(&nested(4).write("four"), "t"), |_| {}).is_ok());
    let refused = bench.stage(oci(&nested(5).write("five"), "t"), |_| {}).unwrap_err();
    assert!(refused.1.contains("nests indexes more than 4 deep"), "{refused:?}");
}

#[test]
fn layers_add_up_against_the_limit_and_those_that_are_there_cost_nothing() {
    let bench = Bench::new("sum");
    let layer = |name: &str| tar(&[Entry::file(name, &vec![7; 300_000])]);
    let (one, two) = (layer("one"), layer("two"));
    let limit = |j: &mut StageJob| j.max_bytes = 500_000;
    let both = oci(&Layout::new(&bench, &[&one, &two]).write("both"), "t");
    assert_eq!(bench.stage(both.clone(), limit).unwrap_err().0, Reason::NoSpace);
    bench.store_is_empty();
    bench.stage(oci(&Layout::new(&bench, &[&one]).write("first"), "t"), limit).unwrap();
    assert_eq!(bench.stage(both, limit).unwrap().unpacked, 600_000);
}

#[test]
fn wrong_digests_and_sizes_are_refused_with_both_values() {
    let bench = Bench::new("digests");
    let layer = tar(&[Entry::file("f", b"f")]);
    let wrong = Digest::of(b"something else");
    let check = |what: &str, source: Source, pin: Option<Digest>, words: &[&str]| {
        let (reason, message) = bench.stage(source, |j| j.digest = pin).expect_err(what);
        assert_eq!(reason, Reason::DigestMismatch, "{what}: {message}");
        assert!(words.iter().all(|w| message.contains(w)), "{what}: {message}");
        bench.store_is_empty();
    };
    let file = bench.file("r.tar", &layer);
    let both = [wrong.to_string(), Digest::of(&layer).to_string()];
    check("pinned file", Source::Rootfs { path: file }, Some(wrong), &both.each_ref().map(String::as_str));
    let good = Layout::new(&bench, &[&layer]);
    check("pinned manifest", oci(&good.write("l1"), "t"), Some(wrong), &[&wrong.to_string()]);
    let l2 = good.write("l2");
    let mut changed = layer.clone();
    changed[600] ^= 1;
    fs::write(format!("{l2}/blobs/sha256/{}", Digest::of(&layer).hex()), &changed).unwrap();
    check("changed layer", oci(&l2, "t"), None, &[&Digest::of(&layer).to_string(), &Digest::of(&changed).to_string()]);
    let l3 = good.write("l3");
    fs::write(format!("{l3}/blobs/sha256/{}", Digest::of(&layer).hex()), &layer[..layer.len() - 512]).unwrap();
    check("short layer", oci(&l3, "t"), None, &["bytes"]);
    let l4 = good.write("l4");
    fs::write(format!("{l4}/blobs/sha256/{}", good.config.hex()), vec![b' '; good.config_size]).unwrap();
    check("changed configuration", oci(&l4, "t"), None, &[&good.config.to_string()]);
    let config = bench::config(&[b"another layer"]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let docker = tar(&[
        Entry::file("1/layer.tar", &layer),
        Entry::file(&name, &config),
        Entry::file("manifest.json", &docker_archive(&name, &["1/layer.tar"])),
    ]);
    check(
        "docker layer",
        Source::DockerArchive { path: bench.file("d.tar", &docker), name: None },
        None,
        &[&Digest::of(&layer).to_string()],
    );
}

#[test]
fn what_is_missing_or_for_another_machine_is_said_by_name() {
    let bench = Bench::new("missing");
    let layer = tar(&[Entry::file("f", b"f")]);
    let good = Layout::new(&bench, &[&layer]).write("good");
    let foreign = Layout::for_machine(&bench, &[&layer], "s390x").write("foreign");
    let hollow = Layout::new(&bench, &[&layer]).write("hollow");
    fs::remove_file(format!("{hollow}/blobs/sha256/{}", Digest::of(&layer).hex())).unwrap();
    let linked = Layout::new(&bench, &[&layer]).write("linked");
    fs::rename(format!("{linked}/blobs"), bench.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(bench.path("elsewhere"), format!("{linked}/blobs")).unwrap();
    let piped = Layout::new(&bench, &[&layer]).write("fifo");
    run("sh", &["-c", "rm index.json; mkfifo index.json"], Path::new(&piped));
    for (source, reason, word) in [
        (oci(&good, "no-such-tag"), Reason::ImageMissing, "t, other"),
        (oci("/nowhere/at/all", "t"), Reason::ImageMissing, "/nowhere/at/all"),
        (Source::Rootfs { path: "/nowhere.tar".into() }, Reason::ImageMissing, "/nowhere.tar"),
        (Source::Rootfs { path: good.clone() }, Reason::HostileArchive, "regular file"),
        (oci(&foreign, "t"), Reason::Unsupported, "s390x"),
        (oci(&hollow, "t"), Reason::ImageMissing, "blobs/sha256"),
        (oci(&linked, "t"), Reason::HostileArchive, "symbolic link"),
        (oci(&piped, "t"), Reason::HostileArchive, "regular file"),
        (Source::OciArchive { path: bench.file("e.tar", &layer), tag: None }, Reason::ImageMissing, "index.json"),
        (Source::DockerArchive { path: bench.piped("z.tar.gz", &layer, "gzip"), name: None }, Reason::Unsupported, "decompress"),
    ] {
        let shown = format!("{source:?}");
        let (found, message) = bench.stage(source, |_| {}).expect_err(&shown);
        assert_eq!(found, reason, "{shown}: {message}");
        assert!(message.contains(word), "{shown}: {message}");
        bench.store_is_empty();
    }
}

// ---- archives that come in one pass ----

/// An archive of an image with these layers.
fn archive_of(bench: &Bench, layers: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    bench.packed(&Layout::new(bench, &layers).write(&format!("layout-{}", Digest::of(&layers.concat()).hex())))
}

#[test]
fn a_layer_of_an_archive_from_the_network_is_shared_with_no_other_image() {
    let bench = Bench::new("one-pass-shared");
    let layer = tar(&[Entry::file("f", b"f")]);
    let archive = archive_of(&bench, std::slice::from_ref(&layer));
    let file = Digest::of(&archive);
    let local = bench.stage(Source::OciArchive { path: bench.file("a.tar", &archive), tag: None }, |_| {}).unwrap();
    let fetched = bench.fetch(Form::OciArchive, &archive, |_| {}).unwrap();
    let as_files = bench.fetch(Form::Rootfs, &archive, |_| {}).unwrap();
    // Nobody but unpack has said which bytes of the archive are this layer: its name promises nothing to others.
    assert_eq!(local.layers, [Digest::of(&layer)]);
    let name = format!("blobs/sha256/{}", Digest::of(&layer).hex());
    assert_eq!((fetched.digest, &fetched.layers[..]), (file.part(b"oci-archive"), &[file.part(name.as_bytes())][..]));
    assert_eq!((as_files.digest, &as_files.layers[..]), (file, &[file][..]), "the same file as a root file system is another image");
    for record in [&local, &fetched, &as_files] {
        assert_eq!(bench.store().record(&record.digest).unwrap().as_ref(), Some(record));
    }
    assert_eq!(bench.fetch(Form::OciArchive, b"what is there already is not read", |j| j.digest = Some(file)).unwrap(), fetched);
    bench.store().collect_garbage(&[fetched.digest]).unwrap();
    assert_eq!(overlay(&bench.data(), &bench.store().layer_dirs(&fetched), bench::names), BTreeSet::from(["f".into()]));
}

#[test]
fn two_names_of_one_layer_in_an_archive_from_the_network_are_one_layer() {
    let bench = Bench::new("one-pass-twice");
    let (one, other) = (tar(&[Entry::file("f", b"1")]), tar(&[Entry::file("f", b"2")]));
    let layout = Layout::new(&bench, &[&one, &other]).write("layout");
    let blob = |bytes: &[u8]| format!("{layout}/blobs/sha256/{}", Digest::of(bytes).hex());
    fs::remove_file(blob(&other)).unwrap();
    std::os::unix::fs::symlink(Digest::of(&one).hex(), blob(&other)).unwrap();
    let record = bench.fetch(Form::OciArchive, &bench.packed(&layout), |_| {}).unwrap();
    assert_eq!(record.layers.len(), 1, "overlay refuses a directory that comes twice");
}

#[test]
fn nothing_in_an_archive_from_the_network_counts_unless_all_of_it_is_the_wanted_file() {
    let bench = Bench::new("one-pass-digest");
    let good = archive_of(&bench, &[tar(&[Entry::file("f", b"f")])]);
    let evil = archive_of(&bench, &[tar(&[Entry::file("f", b"evil")])]);
    let hostile = archive_of(&bench, &[tar(&[Entry::file("../f", b"evil")])]);
    let longer = [&good[..], &[0; 512]].concat();
    for (what, bytes) in
        [("other", &evil[..]), ("hostile", &hostile), ("longer", &longer), ("cut", &good[..good.len() - 700]), ("text", b"no")]
    {
        let (reason, message) = bench.fetch(Form::OciArchive, bytes, |j| j.digest = Some(Digest::of(&good))).expect_err(what);
        assert_eq!(reason, Reason::DigestMismatch, "{what}: {message}");
        assert!(message.contains(&Digest::of(&good).to_string()) && message.contains(&Digest::of(bytes).to_string()), "{what}: {message}");
        bench.store_is_empty();
    }
}

#[test]
fn archives_from_the_network_that_are_no_good_image_are_refused_in_words() {
    let bench = Bench::new("one-pass-refused");
    let layer = tar(&[Entry::file("f", b"f")]);
    let big = vec![7; 300_000];
    let two = [tar(&[Entry::file("one", &big)]), tar(&[Entry::file("two", &big)])];
    let files: Vec<Entry> = (0..60).map(|n| Entry::file(&format!("f{n}"), b"")).collect();
    let blob = format!("blobs/sha256/{}", Digest::of(&layer).hex());
    let without = |name: &str| {
        let layout = Layout::new(&bench, &[&layer]).write(&format!("without-{}", name.len()));
        fs::remove_file(format!("{layout}/{name}")).unwrap();
        bench.packed(&layout)
    };
    let changed = |name: &str, bytes: &[u8]| {
        let layout = Layout::new(&bench, &[&layer]);
        let dir = layout.write(&format!("changed-{}", bytes.len()));
        fs::write(format!("{dir}/{}", name.replace("CONFIG", &layout.config.hex())), bytes).unwrap();
        bench.packed(&dir)
    };
    let other = tar(&[Entry::file("another layer", b"f")]);
    let several = {
        let dir = Layout::new(&bench, &[&layer]).write("several");
        let index = |d: &str| serde_json::from_slice::<serde_json::Value>(&fs::read(format!("{d}/index.json")).unwrap()).unwrap();
        let mut all = index(&dir);
        all["manifests"][1] = index(&Layout::new(&bench, &[&other]).write("several-other"))["manifests"][0].clone();
        fs::write(format!("{dir}/index.json"), all.to_string()).unwrap();
        bench.packed(&dir)
    };
    let chatter: Vec<Entry> = (0..9).map(|n| Entry::file(&format!("{n}.json"), &[b"{".repeat(1 << 19), vec![n]].concat())).collect();
    let foreign = bench.packed(&Layout::for_machine(&bench, &[&layer], "s390x").write("foreign"));
    let linked = tar(&[Entry::symlink("index.json", "a"), Entry::symlink("a", "index.json")]);
    for (what, bytes, reason, word) in [
        ("bytes of all layers", archive_of(&bench, &two), Reason::NoSpace, "unpacks to more than"),
        ("files", archive_of(&bench, &[tar(&files)]), Reason::NoInodes, "more than 50 files"),
        ("no index", without("index.json"), Reason::ImageMissing, "index.json"),
        ("no layer", without(&blob), Reason::ImageMissing, "no layer"),
        ("short layer", changed(&blob, &layer[..layer.len() - 512]), Reason::DigestMismatch, "descriptor says"),
        ("other configuration", changed("blobs/sha256/CONFIG", b"{}"), Reason::DigestMismatch, "descriptor says"),
        ("several images", several, Reason::ImageMissing, "just one image"),
        ("documents", tar(&chatter), Reason::Unsupported, "JSON documents"),
        ("another machine", foreign, Reason::Unsupported, "s390x"),
        ("links in a circle", linked, Reason::ImageMissing, "index.json"),
        ("a root file system", layer.clone(), Reason::ImageMissing, "index.json"),
        ("no archive", b"<html>".to_vec(), Reason::HostileArchive, "cut short"),
    ] {
        let most = if what == "documents" { 16 << 20 } else { 500_000 };
        let limit = |j: &mut StageJob| (j.max_bytes, j.max_inodes) = (most, 50);
        let (found, message) = bench.fetch(Form::OciArchive, &bytes, limit).expect_err(what);
        assert_eq!(found, reason, "{what}: {message}");
        assert!(message.contains(word), "{what}: {message}");
        bench.store_is_empty();
    }
}

// ---- trouble on the way ----

#[test]
fn a_killed_stage_takes_its_children_along_and_leaves_only_what_is_collected() {
    let bench = Bench::new("killed");
    let archive = tar(&[Entry::file("noise", &vec![7; 32 << 20])]);
    let (child, conn) = bench.start(&bench.job(&bench.data(), Source::Rootfs { path: bench.file("r.tar", &archive) }));
    assert!(matches!(conn.recv::<FromStage>().unwrap(), Some(FromStage::Progress(_))));
    let children = bench::stop_children(child.pid);
    assert_eq!(children.len(), 2, "hash and unpack");
    let [hash, unpack] = [children[0], children[1]].map(|pid| move |line: &str| bench::status(pid, line));
    assert_eq!((hash("Uid"), hash("Gid")), ("64321 64321 64321 64321".into(), "64321 64321 64321 64321".into()));
    assert_eq!((hash("CapPrm"), hash("Groups"), hash("NoNewPrivs")), ("0000000000000000".into(), String::new(), "1".into()));
    // chown, dac_override, fowner, fsetid, setfcap: bits 0, 1, 3, 4, 31.
    assert_eq!((unpack("CapPrm"), unpack("NoNewPrivs")), ("000000008000001b".into(), "1".into()));
    assert_eq!(unpack("NSpid").split(' ').nth(1), Some("1"), "first of its own pid namespace");
    for name in ["user", "pid", "net", "mnt", "ipc", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        assert_ne!(of("self"), of(&children[1].to_string()), "{name}");
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", children[1])).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    wherry::sys::signal::pidfd_send(&child.pidfd, 9).unwrap();
    wherry::sys::process::reap(child.pid).unwrap();
    bench::wait_gone(&children);
    assert!(!bench::names(&bench.data().join("staging")).is_empty());
    let freed = bench.store().collect_garbage(&[]).unwrap();
    assert!(freed.bytes > 0);
    bench.store_is_empty();
}

#[test]
fn a_job_whose_time_is_over_or_whose_keeper_is_gone_is_given_up_cleanly() {
    let bench = Bench::new("timeout");
    let archive = bench.file("r.tar", &tar(&[Entry::file("noise", &vec![7; 32 << 20])]));
    let mut job = bench.job(&bench.data(), Source::Rootfs { path: archive });
    job.timeout_s = 2;
    let (child, conn) = bench.start(&job);
    assert!(matches!(conn.recv::<FromStage>().unwrap(), Some(FromStage::Progress(_))));
    let children = bench::stop_children(child.pid);
    let (reason, message) = bench::answer(&conn).unwrap_err();
    assert_eq!(reason, Reason::Timeout, "{message}");
    wherry::sys::process::reap(child.pid).unwrap();
    bench::wait_gone(&children);
    bench.store_is_empty();
    job.timeout_s = 60;
    let (child, conn) = bench.start(&job);
    assert!(matches!(conn.recv::<FromStage>().unwrap(), Some(FromStage::Progress(_))));
    let children = bench::stop_children(child.pid);
    drop(conn);
    wherry::sys::process::reap(child.pid).unwrap();
    bench::wait_gone(&children);
    bench.store_is_empty();
}

#[test]
fn a_full_disk_and_used_up_inodes_are_told_apart_and_leave_nothing() {
    let bench = Bench::new("full");
    let big = bench.file("big.tar", &tar(&[Entry::file("noise", &vec![7; 4 << 20])]));
    let many = bench.file("many.tar", &tar(&(0..300).map(|n| Entry::file(&format!("f{n}"), b"")).collect::<Vec<_>>()));
    for (options, path, reason) in [("size=1m", big, Reason::NoSpace), ("nr_inodes=100", many, Reason::NoInodes)] {
        let (found, message) = in_mount_namespace(|| {
            fs::create_dir_all(bench.data()).unwrap();
            bench::mount("tmpfs", "tmpfs", &bench.data(), options);
            let result = bench.stage(Source::Rootfs { path }, |_| {}).unwrap_err();
            bench.store_is_empty();
            result
        });
        assert_eq!(found, reason, "{message}");
    }
}

#[test]
fn wherever_inodes_run_out_nothing_is_left_behind() {
    let bench = Bench::new("inodes");
    let file = bench.file("r.tar", &tar(&[Entry::file("a/b", b"x")]));
    // Enough for the root and the three directories of the store, then one more each time: work directory, cage, a, b, layer, record.
    let outcomes: Vec<Result<(), Reason>> = (5..12)
        .map(|inodes| {
            in_mount_namespace(|| {
                fs::create_dir_all(bench.data()).unwrap();
                bench::mount("tmpfs", "tmpfs", &bench.data(), &format!("nr_inodes={inodes}"));
                let result = bench.stage(Source::Rootfs { path: file.clone() }, |_| {});
                if let Err((_, message)) = &result {
                    assert!(message.contains("no inodes left") || message.contains("record"), "{inodes}: {message}");
                    bench.store_is_empty();
                }
                result.map(|_| ()).map_err(|(reason, _)| reason)
            })
        })
        .collect();
    let failed = outcomes.iter().take_while(|o| **o == Err(Reason::NoInodes)).count();
    assert!(failed >= 5 && outcomes[failed..].iter().all(Result::is_ok) && failed < outcomes.len(), "{outcomes:?}");
}

#[test]
fn installing_writes_little_more_than_the_unpacked_image() {
    let bench = Bench::new("written");
    let noise = run("sh", &["-c", "head -c 24000000 /dev/urandom > noise; gzip -1 -c noise > /dev/null; echo ok"], bench.dir());
    assert_eq!(noise, "ok\n");
    let files: Vec<Entry> =
        fs::read(bench.dir().join("noise")).unwrap().chunks(60_000).enumerate().map(|(n, c)| Entry::file(&format!("d/f{n}"), c)).collect();
    let layout = Layout::new(&bench, &[&tar(&files)]).write("layout");
    let archive = bench.packed(&layout);
    run("sh", &["-c", "truncate -s 96M disk; mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 disk"], bench.dir());
    let written = in_mount_namespace(|| {
        fs::create_dir_all(bench.data()).unwrap();
        run("mount", &["-o", "loop", "disk", "data"], bench.dir());
        let count = |bring_in: &dyn Fn() -> bench::Answer| {
            let before = bench::sectors_written(&bench.data());
            assert_eq!(bring_in().unwrap().unpacked, 24_000_000);
            run("sync", &["-f", "data"], bench.dir());
            (bench::sectors_written(&bench.data()) - before) * 512
        };
        let local = count(&|| bench.stage(oci(&layout, "t"), |_| {}));
        let fetched = count(&|| bench.fetch(Form::OciArchive, &archive, |_| {}));
        run("umount", &["data"], bench.dir());
        [("from a directory", local), ("from the network", fetched)]
    });
    for (what, written) in written {
        assert!(written >= 24_000_000, "{what}: counted too little: {written}");
        assert!(written <= 26_400_000, "{what}: {written} bytes were written for 24000000");
    }
}
