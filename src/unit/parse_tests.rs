//! What right texts mean.

use std::path::Path;
use std::time::Duration;

use super::*;

fn read(text: &str) -> Unit {
    let file = Path::new("/etc/moored/units/web.toml");
    let parsed = parse(&UnitName::new("web").unwrap(), file, text).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(parsed.warnings, []);
    parsed.unit
}

fn hook(exec: &[&str], seconds: u64, on: HookOn) -> UnitHook {
    let exec = exec.iter().map(|word| (*word).to_owned()).collect();
    UnitHook { exec, timeout: Duration::from_secs(seconds), on }
}

#[test]
fn every_key_arrives() {
    let mut unit = read(include_str!("whole.toml"));
    let replicas = unit.replicas.take().unwrap();
    assert_eq!((replicas.count, replicas.own_host_names, replicas.each.len()), (2, false, 0));
    let env = [("DEBUG", "true"), ("MASK", "31"), ("NAME", "a=b"), ("PORT", "8080"), ("RATE", "1.5")];
    let expected = Unit {
        name: UnitName::new("web").unwrap(),
        description: Some("Public web front, 100%".to_owned()),
        hostname: Some("front".to_owned()),
        replicas: None,
        enabled: false,
        kind: Kind::Oneshot,
        source: Source::Layers(vec!["/etc/moored/roots/web".into()]),
        upper: Upper { size_bytes: 1 << 20, ..Upper::default() },
        depends_on: [
            (UnitName::new("db").unwrap(), Dependency { state: Need::Healthy, optional: false, on_loss: OnLoss::Keep }),
            (
                UnitName::new("migrate").unwrap(),
                Dependency { state: Need::Completed, optional: true, on_loss: OnLoss::Restart },
            ),
        ]
        .into(),
        on_failure: ["alert", "page@ops"].map(|name| UnitName::new(name).unwrap()).into(),
        conditions: vec![
            Condition::PathExists("/dev/ttyUSB0".into()),
            Condition::PathExists("/etc/moored/units/flag".into()),
            Condition::MountPoint("/etc/moored/units/data".into()),
            Condition::KernelCmdline("role=web".to_owned()),
        ],
        process: Process {
            args: Some(vec!["/bin/web".to_owned(), "--share=100%".to_owned()]),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            user: Some("root:adm".to_owned()),
            cwd: Some("/srv".to_owned()),
            init: true,
            terminal: Some(true),
            env_files: vec![
                EnvFile { path: "/etc/moored/units/web.env".into(), optional: false },
                EnvFile { path: "/etc/default/web".into(), optional: true },
            ],
            variables: Variables::default(),
        },
        restart: Restart {
            policy: RestartPolicy::OnFailure,
            delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(90),
            reset_after: Duration::from_secs(1),
            limit: Some(RestartLimit { burst: 5, interval: Duration::from_secs(60) }),
            on_limit: OnLimit::Reboot,
        },
        stop: Stop { signal: Signal(37), timeout: Duration::ZERO },
        reload: Some(Reload::Exec(vec!["/bin/web".to_owned(), "reload".to_owned()])),
        schedule: Some(Arc::new(Schedule {
            calendar: Calendar::parse("Mon..Fri 02:30").unwrap(),
            time_zone: Some("Europe/Berlin".to_owned()),
            persistent: true,
            random_delay: Duration::from_secs(600),
            max_runtime: Some(Duration::from_secs(3600)),
            wait_for_clock: false,
        })),
        hooks: Some(Arc::new(UnitHooks {
            pre_start: Some(hook(&["/bin/web", "migrate"], 120, HookOn::Container)),
            post_start: Some(hook(&["/bin/web", "warm"], 30, HookOn::Container)),
            pre_stop: Some(hook(&["/bin/web", "drain"], 30, HookOn::Container)),
            post_stop: Some(hook(&["/usr/local/bin/report", "web"], 30, HookOn::Host)),
        })),
        health: Some(Arc::new(Health {
            startup: Some(Check {
                probe: Probe::File { path: "/run/up".into(), max_age: Some(Duration::from_secs(3600)) },
                from: From::Container,
                interval: Duration::from_millis(250),
                timeout: Duration::from_secs(5),
                failures: 100,
                successes: 1,
            }),
            readiness: Some(Check {
                probe: Probe::Http {
                    url: "http://localhost:8080/ready?for=web".to_owned(),
                    addresses: vec!["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()],
                    host: "localhost:8080".to_owned(),
                    path: "/ready?for=web".to_owned(),
                },
                from: From::Host,
                interval: Duration::from_secs(2),
                timeout: Duration::from_secs(5),
                failures: 3,
                successes: 2,
            }),
            liveness: Some(Check {
                probe: Probe::Exec(vec!["/bin/web".to_owned(), "check".to_owned()]),
                from: From::Container,
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(1),
                failures: 3,
                successes: 1,
            }),
            notify: Some(Notify { watchdog: Some(Duration::from_secs(30)) }),
        })),
        update: Update {
            order: Order::StopFirst,
            min_healthy: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
            on_bad: Some(OnBad::StayFailed),
        },
        resources: Resources {
            memory_bytes: Some(256 << 20),
            cpus_milli: Some(500),
            pids: Some(100),
            shm_bytes: Some(1 << 20),
        },
        network: Some(Network::Unit(UnitName::new("db").unwrap())),
        mounts: vec![
            Mount {
                kind: MountKind::Tmpfs { size_bytes: Some(16 << 20) },
                target: "/cache".to_owned(),
                read_only: false,
                idmap: None,
            },
            Mount {
                kind: MountKind::Bind { source: "/etc/moored/units/data".into() },
                target: "/data".to_owned(),
                read_only: false,
                idmap: None,
            },
            Mount {
                kind: MountKind::Bind { source: "/etc/ssl".into() },
                target: "/etc/ssl".to_owned(),
                read_only: true,
                idmap: None,
            },
        ],
        configs: vec![
            ConfigFile {
                source: "/etc/moored/units/app.conf".into(),
                target: "/etc/app.conf".to_owned(),
                on_change: OnChange::Reload,
                mode: Some(0o640),
                secret: false,
                contents: None,
            },
            ConfigFile {
                source: "/etc/web/motd".into(),
                target: "/motd".to_owned(),
                on_change: OnChange::Restart,
                mode: None,
                secret: false,
                contents: None,
            },
            ConfigFile {
                source: "/etc/moored/units/key.pem".into(),
                target: "/tls/key.pem".to_owned(),
                on_change: OnChange::None,
                mode: Some(0o440),
                secret: true,
                contents: None,
            },
        ],
        devices: vec![Device { path: "/dev/ttyUSB0".into() }],
        sockets: vec![
            Socket {
                listen: Listen::Tcp("[::1]:8080".parse().unwrap()),
                name: None,
                options: SocketOptions::default(),
            },
            Socket {
                listen: Listen::Unix("/run/web.sock".to_owned()),
                name: Some("local".to_owned()),
                options: SocketOptions {
                    backlog: Some(16),
                    mode: Some(0o660),
                    user: Some("www-data".to_owned()),
                    group: Some("33".to_owned()),
                    ..SocketOptions::default()
                },
            },
            Socket {
                listen: Listen::Udp("0.0.0.0:53".parse().unwrap()),
                name: None,
                options: SocketOptions { reuse_port: true, free_bind: true, ..SocketOptions::default() },
            },
        ],
        log: Log { max_size_bytes: 64 << 10, max_files: 2 },
        security: Security {
            capabilities: Some(vec!["CAP_CHOWN".to_owned(), "CAP_NET_BIND_SERVICE".to_owned()]),
            no_new_privileges: Some(false),
            seccomp: Some(Seccomp::Unconfined),
            read_only: Some(false),
            userns: None,
        },
        oci: serde_json::json!({"linux": {"sysctl": {"net.core.somaxconn": "1024"}}}).as_object().unwrap().clone(),
        hidden: BTreeSet::new(),
    };
    assert_eq!(unit, expected);
}

#[test]
fn defaults_are_those_of_the_design() {
    let unit = read("executable = \"/usr/local/bin/thing\"\n");
    assert_eq!((unit.enabled, unit.kind, unit.hostname.as_deref()), (true, Kind::Service, Some("web")));
    assert_eq!(unit.process.args, Some(vec!["/thing".to_owned()]));
    let restart = Restart {
        policy: RestartPolicy::Always,
        delay: Duration::from_millis(100),
        max_delay: Duration::from_secs(60),
        reset_after: Duration::from_secs(60),
        limit: None,
        on_limit: OnLimit::StayFailed,
    };
    assert_eq!(unit.restart, restart);
    assert_eq!(unit.stop, Stop { signal: Signal(15), timeout: Duration::from_secs(30) });
    assert_eq!((unit.resources.pids, unit.resources.shm_bytes), (Some(2048), Some(64 << 20)));
    assert_eq!(unit.network, Some(Network::None));
    assert_eq!(unit.log, Log { max_size_bytes: 10 << 20, max_files: 5 });
    assert_eq!(unit.security, Security::default());
    let oneshot = read("type = \"oneshot\"\nexecutable = \"/usr/local/bin/thing\"\n");
    assert_eq!(oneshot.restart.policy, RestartPolicy::Never);
}

#[test]
fn a_bundle_leaves_to_config_json_what_it_does_not_say() {
    let unit = read("bundle = \"/srv/web\"\n");
    assert_eq!((unit.hostname, unit.network, unit.process), (None, None, Process::default()));
    assert_eq!((unit.resources, unit.security), (Resources::default(), Security::default()));
    assert_eq!(read("bundle = \"/srv/web\"\nhostname = \"%n\"\n").hostname.as_deref(), Some("web"));
}

#[test]
fn relative_paths_start_where_they_are_told() {
    let name = UnitName::new("web").unwrap();
    let text = "bundle = \"../web\"\n";
    let source = |file: &str| parse(&name, Path::new(file), text).unwrap().unit.source;
    assert_eq!(source("/etc/moored/units/web.toml"), Source::Bundle("/etc/moored/web".into()));
    let unit = parse_from(&name, Path::new("/etc/moored/units/web.toml"), Path::new("/srv/conf"), text).unwrap().unit;
    assert_eq!(unit.source, Source::Bundle("/srv/web".into()));
}

#[test]
fn a_long_delay_raises_the_default_of_its_cap() {
    let unit = read("bundle = \"/b\"\n[restart]\ndelay = \"2m\"\n");
    assert_eq!(unit.restart.max_delay, Duration::from_secs(120));
}

#[test]
fn what_is_allowed_but_not_meant_is_a_warning() {
    let text = "rootfs = \"/r\"\nprocess.args = [\"/x\"]\nprocess.user = \"web\"\n[restart]\non_limit = \"reboot\"\n[security]\ncapabilities = \"docker\"\n";
    let parsed = parse(&UnitName::new("web").unwrap(), Path::new("web.toml"), text).unwrap();
    let shown: Vec<String> = parsed.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "web.toml:5:1 `on_limit` without `limit` means nothing, write limit = { burst = 5, interval = \"1m\" }",
            "web.toml:7:1 these capabilities bound what a user other than root can gain, but do not give it anything, a program that is not root gets them only as process.capabilities.inheritable and .ambient in [oci]",
        ]
    );
}

#[test]
fn an_instance_is_its_template_with_the_specifiers_expanded() {
    let text = "rootfs = \"/srv/%p\"\ndescription = \"%n, 100%\"\nnetwork.mode = \"unit:%i\"\nprocess.args = [\"/bin/%p\", \"%i\", \"%%i\"]\n\
        process.env = { ID = \"%n\" }\n[[mount]]\nsource = \"data/%i\"\ntarget = \"/data/%i\"\n";
    let of = |name: &str| {
        let path = format!("/units/{name}.toml");
        super::parse(&UnitName::new(name).unwrap(), Path::new(&path), text).unwrap().unit
    };
    let unit = of("worker@a");
    assert_eq!(unit.source, Source::Rootfs("/srv/worker".into()));
    assert_eq!(unit.description.as_deref(), Some("worker@a, 100%"));
    assert_eq!(unit.hostname.as_deref(), Some("worker-a"), "a host name has no `@`");
    assert_eq!(unit.network, Some(Network::Unit(UnitName::new("a").unwrap())));
    assert_eq!(unit.process.args.as_deref().unwrap(), ["/bin/worker", "a", "%i"]);
    assert_eq!(unit.process.env["ID"], "worker@a");
    assert_eq!(unit.mounts[0].kind, MountKind::Bind { source: "/units/data/a".into() });
    assert_eq!(unit.mounts[0].target, "/data/a");
    assert_eq!(of("worker@b").mounts[0].target, "/data/b");

    let long = format!("{}@{}", "a".repeat(40), "b".repeat(40));
    let parse = |text: &str| super::parse(&UnitName::new(&long).unwrap(), Path::new("/x.toml"), text);
    let error = parse("rootfs = \"/r\"\nprocess.args = [\"/a\"]\n").unwrap_err()[0].to_string();
    assert!(error.contains("too long for a host name"), "{error}");
    assert!(parse("rootfs = \"/r\"\nhostname = \"w-b\"\nprocess.args = [\"/a\"]\n").is_ok());
}
