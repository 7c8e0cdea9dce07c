//! Debian's nginx under load, while its certificate is renewed as certbot does it: `live/…` are links into `archive/…`, which are repointed one
//! after the other. The new one is served, no request fails, and nginx hears of it once.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::debian;
use super::support::{Supervisor, TempDir, skip, tool, wait_for};

/// So many clients ask all the time.
const CLIENTS: usize = 3;
/// nginx's master and its worker are Debian's www-data.
const USER: &str = "33:33";

/// A certificate and its key, as certbot writes the number `version` of them.
fn issue(archive: &Path, version: u32) {
    let file = |name: &str| archive.join(format!("{name}{version}.pem"));
    let request = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-set_serial", &serial(version)])
        .args(["-keyout", file("privkey").to_str().unwrap(), "-out", file("fullchain").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(request.status.success(), "{}", String::from_utf8_lossy(&request.stderr));
    fs::set_permissions(file("privkey"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn serial(version: u32) -> String {
    format!("0x5eed{version:04x}")
}

/// certbot removes a link and makes another; the key comes first.
fn point(dir: &Path, version: u32) {
    for name in ["privkey", "fullchain"] {
        let link = dir.join("live").join(format!("{name}.pem"));
        let _ = fs::remove_file(&link);
        symlink(format!("../archive/{name}{version}.pem"), link).unwrap();
    }
}

fn nginx(port: u16) -> String {
    format!(
        "daemon off;\npid /run/nginx.pid;\nerror_log stderr notice;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;\n  \
         server {{\n    listen 127.0.0.1:{port} ssl;\n    ssl_certificate /etc/tls/fullchain.pem;\n    \
         ssl_certificate_key /etc/tls/privkey.pem;\n    location / {{ return 200 \"served\\n\"; }}\n  }}\n}}\n"
    )
}

/// The answer, and the serial number of the certificate that came with it; an error in words.
fn ask(port: u16, authorities: &Path) -> Result<(String, String), String> {
    let url = format!("https://localhost:{port}/");
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--noproxy", "*", "--resolve", &format!("localhost:{port}:127.0.0.1")])
        .args(["-w", "%{certs}", "--cacert", authorities.to_str().unwrap(), &url])
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("Serial Number:")).unwrap_or_default();
    let serial = line.trim().replace(':', "").to_lowercase();
    Ok((text.lines().next().unwrap_or_default().to_owned(), serial))
}

#[test]
fn a_renewed_certificate_is_served_without_a_failed_request_and_with_one_signal() {
    let Some(root) = debian::root() else { return };
    if tool("openssl").is_none() || tool("curl").is_none() {
        return;
    }
    if !root.join("usr/sbin/nginx").exists() {
        return skip("there is no nginx in target/test-roots/debian: tests/run puts it there");
    }
    let mut supervisor = Supervisor::prepare_in(TempDir::below(Path::new("/dev/shm"), "tls"));
    supervisor.up();
    let dir = supervisor.dir.join("letsencrypt");
    for name in ["live", "archive"] {
        fs::create_dir_all(dir.join(name)).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o700)).unwrap();
    }
    (1..=2).for_each(|version| issue(&dir.join("archive"), version));
    point(&dir, 1);
    let authorities = supervisor.dir.join("authorities.pem");
    let both = [1, 2].map(|version| fs::read_to_string(dir.join(format!("archive/fullchain{version}.pem"))).unwrap());
    fs::write(&authorities, both.concat()).unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fs::write(supervisor.dir.join("nginx.conf"), nginx(port)).unwrap();
    supervisor.unit(
        "web",
        &format!(
            "rootfs = {root:?}\n[process]\nargs = [\"/usr/sbin/nginx\", \"-c\", \"/etc/web.conf\"]\nuser = \"{USER}\"\n\
             [network]\nmode = \"host\"\n[reload]\nsignal = \"SIGHUP\"\n\
             [[mount]]\ntype = \"tmpfs\"\ntarget = \"/run\"\n\
             [[config]]\nsource = \"../nginx.conf\"\ntarget = \"/etc/web.conf\"\n\
             [[config]]\nsource = \"../letsencrypt/live/fullchain.pem\"\ntarget = \"/etc/tls/fullchain.pem\"\non_change = \"reload\"\n\
             [[secret]]\nsource = \"../letsencrypt/live/privkey.pem\"\ntarget = \"/etc/tls/privkey.pem\"\non_change = \"reload\"\n"
        ),
    );
    let first = wait_for("nginx to serve", || ask(port, &authorities).ok());
    assert_eq!(first, ("served".to_owned(), serial(1)[2..].to_owned()), "{}", supervisor.log("web"));
    let pid = supervisor.pid("web");

    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let client = || {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                match ask(port, &authorities) {
                    Ok((text, _)) if text == "served" => drop(asked.fetch_add(1, Ordering::Relaxed)),
                    other => failed.push(other),
                }
            }
            failed
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let some = |what: &str, more: usize| {
            let before = asked.load(Ordering::Relaxed);
            wait_for(what, || (asked.load(Ordering::Relaxed) >= before + more).then_some(()));
        };
        some("requests before", 10);
        point(&dir, 2);
        wait_for("the new certificate", || {
            ask(port, &authorities).is_ok_and(|(_, serial)| serial == self::serial(2)[2..]).then_some(())
        });
        some("requests after", 30);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            assert_eq!(client.join().unwrap(), [], "no request fails");
        }
    });
    assert_eq!(supervisor.ok(&["sync", "web"]), "");
    assert_eq!(supervisor.pid("web"), pid, "the same container");
    let log = supervisor.log("web");
    let signals = log.lines().filter(|line| line.contains("signal 1 (SIGHUP) received")).count();
    assert_eq!(signals, 1, "{log}");
}
