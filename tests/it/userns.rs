//! `[security] userns = "auto"`: ids of a unit's own, whose the files are that it sees and writes, and what keeps its range.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use super::support::{install, tool, wait_for};
use super::world::{FOREVER, Running, World};

const AUTO: &str = "[security]\nuserns = \"auto\"\n";

/// The first id outside of a process's.
fn first_id(pid: i64) -> u32 {
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    let numbers: Vec<u32> = map.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [0, first, 65536] = numbers[..] else { panic!("{map}") };
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/gid_map")).unwrap(), map);
    first
}

fn uid_of(pid: i64) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::metadata(path).unwrap();
    (found.uid(), found.gid())
}

#[test]
fn root_inside_is_nobody_outside_and_files_have_their_owners() {
    // Secrets are in memory alone.
    let Some(mut world) = super::secrets::start("userns") else { return };
    let shared = world.shared();
    for (name, id) in [("of-root", 0), ("of-user", 1000)] {
        fs::write(shared.join(name), "x").unwrap();
        chown(shared.join(name), Some(id), Some(id)).unwrap();
    }
    fs::write(world.dir.join("app.conf"), "conf").unwrap();
    fs::write(world.dir.join("key"), "key").unwrap();
    fs::set_permissions(world.dir.join("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let tables = |more: &str| {
        let shared = shared.display();
        format!(
            "user = \"1000:1000\"\n{AUTO}{more}\
             [[mount]]\nsource = \"{shared}\"\ntarget = \"/data\"\nread_only = false\n\
             [[mount]]\nsource = \"{shared}\"\ntarget = \"/raw\"\nidmap = false\n\
             [[mount]]\ntype = \"tmpfs\"\ntarget = \"/mem\"\n\
             [[config]]\nsource = \"../app.conf\"\ntarget = \"/etc/app.conf\"\nmode = \"0640\"\non_change = \"none\"\n\
             [[secret]]\nsource = \"../key\"\ntarget = \"/etc/key\"\non_change = \"none\"\n"
        )
    };
    let script = format!(
        "id -u; stat -c '%%n %%u' / /bin/busybox /data /data/of-root /data/of-user /raw/of-root /mem /dev/null /dev/pts /dev/stdout; \
         cat /etc/key; echo; echo said > /dev/stdout; touch /data/of-user && echo touched; echo up; {FOREVER}"
    );
    world.unit("web", &world.text("", &script, &tables("")));
    let web = world.running("web");
    world.wait_log("web", "up");
    let expected = "1000\n/ 0\n/bin/busybox 0\n/data 0\n/data/of-root 0\n/data/of-user 1000\n/raw/of-root 65534\n/mem 0\n/dev/null 65534\n\
                    /dev/pts 0\n/dev/stdout 0\nkey\nsaid\ntouched\nup\n";
    assert_eq!(world.log("web"), expected);
    let first = first_id(web.pid);
    assert!((0x8_0000..0x7000_0000).contains(&first), "{first}");
    assert_eq!(uid_of(web.pid), first + 1000);
    let status = world.ok(&["status", "web"]);
    assert!(
        status.contains(&format!("Ids: 0 to 65535 inside are {first} to {} of the host's", first + 65535)),
        "{status}"
    );

    // As root inside: what it makes is root's on the host's disk, and it can read what is for root and its group.
    let inside = |script: &str| world.run(&["exec", "--user", "0:0", "web", "--", "sh", "-c", script]);
    let made = inside(
        "id -u; cat /proc/self/uid_map | tr -s ' '; echo y > /data/made; cat /etc/app.conf; echo; touch /raw/no 2>&1; hostname",
    );
    let said = String::from_utf8(made.stdout).unwrap();
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        ["0", &format!(" 0 {first} 65536"), "conf", "touch: /raw/no: Read-only file system", "web"].map(str::to_owned)
            [..],
        "{said}"
    );
    assert_eq!(owner(&shared.join("made")), (0, 0));
    assert_eq!(fs::read_to_string(shared.join("made")).unwrap(), "y\n");

    // Contents are swapped in for the same owners.
    fs::write(world.dir.join("app.conf"), "second").unwrap();
    fs::write(world.dir.join("key"), "other").unwrap();
    wait_for("the new contents", || {
        let said = inside("cat /etc/app.conf").stdout;
        let key = world.run(&["exec", "web", "--", "cat", "/etc/key"]).stdout;
        (said == b"second" && key == b"other").then_some(())
    });

    // Another unit has others; the same one keeps them, across everything.
    world.script("db", FOREVER, AUTO);
    let db = world.running("db");
    assert!(first_id(db.pid).abs_diff(first) >= 65536);
    assert_eq!((first_id(db.pid), uid_of(db.pid)), (uid_of(db.pid), first_id(db.pid)), "root inside is its first");
    world.kill9(world.pids().supervisor);
    wait_for("another supervisor", || world.run(&["ps"]).status.success().then_some(()));
    assert_eq!(Running::of(&world.find("web").unwrap()), web);
    assert_eq!(world.ok(&["exec", "web", "--", "id", "-u"]), "1000\n");
    world.unit("web", &world.text("", &format!(": again; {FOREVER}"), &tables("")));
    let again = world.replaced("web", &web);
    assert_eq!(first_id(again.pid), first);
    let record = world.dir.join("state/userns/web");
    assert!(record.exists());
    assert!(world.world.supervisor.stop().success());
    let _ = fs::remove_dir_all(world.dir.join("run"));
    world.world.supervisor.up();
    assert_eq!(first_id(world.running("web").pid), first);

    // With the host's ids it is another container.
    let text = world.text("", FOREVER, "[network]\nmode = \"host\"\n");
    world.unit("db", &text);
    let plain = world.running("db");
    wait_for("the host's ids", || {
        let row = world.find("db")?;
        let pid = row["pid"].as_i64()?;
        fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?.contains("4294967295").then_some(())
    });
    drop(plain);
    world.remove_unit("web");
    world.wait_gone("web");
    wait_for("its ids to be free", || (!record.exists()).then_some(()));
}

#[test]
fn it_goes_with_every_network_and_every_source() {
    let (Some(world), Some(busybox)) = (World::start("userns-kinds"), tool("busybox")) else { return };
    let look =
        "id -u; ls /sys/class/net | tr '\\n' ' '; echo; cat /proc/self/uid_map | tr -s ' ' | cut -d' ' -f4; echo up";
    world.script("owner", &format!("{look}; {FOREVER}"), "[network]\nmode = \"none\"\n");
    let owner = world.running("owner");
    for (unit, network) in [("none", "none"), ("host", "host"), ("joined", "unit:owner")] {
        world.script(unit, &format!("{look}; {FOREVER}"), &format!("{AUTO}[network]\nmode = \"{network}\"\n"));
        let running = world.running(unit);
        world.wait_log(unit, "up");
        let log = world.log(unit);
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!((lines[0], lines[2]), ("0", "65536"), "{unit}: {log}");
        let net = |pid: i64| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        match network {
            "none" => {
                assert!(net(running.pid) != net(i64::from(std::process::id())) && lines[1].trim() == "lo", "{log}")
            }
            "host" => assert_eq!(net(running.pid), net(i64::from(std::process::id()))),
            _ => assert_eq!(net(running.pid), net(owner.pid)),
        }
        first_id(running.pid);
    }
    // And the other way round.
    world.script("guest", FOREVER, "[network]\nmode = \"unit:none\"\n");
    world.running("guest");

    // One static program, in a directory that nobody else may enter.
    let closed = world.dir.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    install(&busybox, &closed.join("busybox"));
    fs::set_permissions(closed.join("busybox"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let text = format!(
        "type = \"oneshot\"\nexecutable = \"{}\"\n[process]\nargs = [\"/busybox\", \"stat\", \"-c\", \"%%n %%u\", \"/\", \"/busybox\", \"/etc/passwd\"]\n{AUTO}",
        closed.join("busybox").display()
    );
    assert_eq!(world.printed_by("thing", &text), "/ 0\n/busybox 0\n/etc/passwd 0\n");

    // A service that says when it is ready, checks, sockets.
    let script = "wc -c < /dev/moored-notify/socket 2>/dev/null; ls -l /dev/moored-notify/socket | cut -c1-10; echo $LISTEN_FDS; echo up; trap 'exit 0' TERM; sleep 1000 & wait";
    let listen = format!("[[socket]]\nlisten = \"unix://{}\"\n", world.dir.join("s.sock").display());
    world.script("told", script, &format!("notify = \"systemd\"\n{AUTO}{listen}"));
    world.wait_log("told", "srw-rw-rw-\n1\nup\n");
    let check = "[health.readiness]\nexec = [\"/bin/sh\", \"-c\", \"test $(id -u) = 0\"]\ninterval = \"100ms\"\n";
    world.script("checked", FOREVER, &format!("{AUTO}{check}"));
    world.wait_phase("checked", &["ready"]);
}

#[test]
fn what_a_union_keeps_is_the_units_own() {
    let Some(world) = World::start("userns-layers") else { return };
    let layer = world.dir.join("layer");
    fs::create_dir_all(layer.join("srv")).unwrap();
    fs::write(layer.join("srv/of-user"), "a").unwrap();
    chown(layer.join("srv/of-user"), Some(1000), Some(1000)).unwrap();
    let text = |tag: &str, upper: &str| {
        let (root, layer) = (world.root.display(), layer.display());
        let script = format!(
            "stat -c '%%n %%u' / /srv /srv/of-user; echo {tag} >> /srv/kept; chown 33:33 /srv/kept; echo b >> /srv/of-user; cat /srv/kept; stat -c %%u /srv/kept /srv/of-user"
        );
        format!(
            "type = \"oneshot\"\nlayers = [\"{root}\", \"{layer}\"]\n[process]\nargs = [\"/bin/sh\", \"-c\", {}]\n{upper}{AUTO}capabilities = \"docker\"\n",
            super::world::quoted(&script)
        )
    };
    let before = mounts();
    let first = "/ 0\n/srv 0\n/srv/of-user 1000\none\n33\n1000\n";
    assert_eq!(world.printed_by("memory", &text("one", "")), first);
    assert_eq!(world.printed_by("disk", &text("one", "[upper]\npersist = true\n")), first);
    let upper = world.dir.join("state/upper/disk/upper/srv");
    assert_eq!((owner(&upper.join("kept")), owner(&upper.join("of-user"))), ((33, 33), (1000, 1000)), "as on any disk");
    world.unit("disk", &text("two", "[upper]\npersist = true\n"));
    world.wait_log("disk", "one\ntwo\n33\n1000\n");
    assert_eq!(fs::read_to_string(layer.join("srv/of-user")).unwrap(), "a", "layers are never written");
    assert_eq!(mounts(), before, "nothing is left mounted");
    let record = world.dir.join("state/userns/disk");
    world.remove_unit("disk");
    world.remove_unit("memory");
    world.wait_gone("disk");
    world.wait_gone("memory");
    wait_for("the ids without a layer to be free", || (!world.dir.join("state/userns/memory").exists()).then_some(()));
    assert!(record.exists(), "those of a kept layer are not");
}

fn mounts() -> BTreeSet<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines().filter(|line| line.contains("moored-it")).map(|line| line.split(' ').skip(3).collect()).collect()
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let Some(world) = World::start("userns-refused") else { return };
    let root = world.root.display();
    let cases = [
        (
            "profile",
            "[process]\nargs = [\"/bin/true\"]\n[security]\nprofile = \"host\"\nuserns = \"auto\"\n".to_owned(),
            "userns` beside `security.profile",
        ),
        (
            "oci",
            world.text(
                "",
                FOREVER,
                &format!("{AUTO}[oci]\nlinux.namespaces = [{{ type = \"mount\" }}, {{ type = \"user\" }}]\n"),
            ),
            "linux.namespaces[1]: stands beside security.userns",
        ),
        (
            "uid",
            world.text("", FOREVER, &format!("user = \"70000:70000\"\n{AUTO}")),
            "process.user.uid: 70000 is out of range",
        ),
        (
            "idmap",
            format!(
                "rootfs = \"{root}\"\n[process]\nargs = [\"/bin/true\"]\n[[mount]]\nsource = \"/srv\"\ntarget = \"/x\"\nidmap = true\n"
            ),
            "`mount.idmap` means nothing without",
        ),
        ("word", world.text("", FOREVER, "[security]\nuserns = \"private\"\n"), "did you mean \"auto\"?"),
    ];
    for (unit, text, says) in &cases {
        world.unit(unit, text);
        let (code, said, _) = world.says(&["check", world.units().join(format!("{unit}.toml")).to_str().unwrap()]);
        assert!(code == 1 && said.contains(says), "{unit}: {code} {said}");
        world.wait_reason(unit, says);
    }
    // A file system whose mounts the kernel does not map.
    world.unit(
        "proc",
        &world.text("", FOREVER, &format!("{AUTO}[[mount]]\nsource = \"/proc/sys/kernel\"\ntarget = \"/x\"\n")),
    );
    let row = world
        .wait_unit("proc", "failing", |row| row["exit"].as_str().is_some_and(|exit| exit.contains("start failed")));
    let said = row["exit"].as_str().unwrap();
    assert!(said.contains("/x: ids cannot be mapped") && said.contains("idmap = false"), "{said}");
}

#[test]
fn ranges_come_from_the_pool_and_pass_over_what_is_taken() {
    let Some(mut world) = World::prepare("userns-pool") else { return };
    world.supervisor = world.supervisor.with(&["--userns-pool", "900000000-900131071"]);
    world.supervisor.up();
    world.script("one", FOREVER, AUTO);
    world.script("two", FOREVER, AUTO);
    let firsts: BTreeSet<u32> = ["one", "two"].iter().map(|unit| first_id(world.running(unit).pid)).collect();
    assert_eq!(firsts, [900_000_000, 900_065_536].into());
    world.script("three", FOREVER, AUTO);
    let row = world
        .wait_unit("three", "failing", |row| row["exit"].as_str().is_some_and(|exit| exit.contains("start failed")));
    assert!(row["exit"].as_str().unwrap().contains("no 65536 ids in a row are free in 900000000-900131071"), "{row}");
    world.remove_unit("one");
    world.wait_gone("one");
    world.ok(&["restart", "three"]);
    world.running("three");
}
