//! What env files make of a unit, and what is said of them.

use std::path::Path;

use super::{
    Effect, Layer, LayerKind, Names, Parsed, Place, SourceFacts, Unit, UnitName, Variables, changes, compile,
    container_fingerprint, parse, parse_with,
};

fn file() -> &'static Path {
    Path::new("web.toml")
}

fn layer(text: &str) -> Layer<'_> {
    Layer { kind: LayerKind::Main, file: file(), base: Path::new("/units"), text, is_template: false }
}

fn with(text: &str, env: &str) -> Result<Parsed, String> {
    let variables = Variables::of_files([(Path::new("web.env"), env.as_bytes())]).unwrap();
    let parsed = parse_with(Names::of(&UnitName::new("web").unwrap()), &[layer(text)], &variables);
    parsed.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn unit(text: &str, env: &str) -> Unit {
    with(text, env).unwrap_or_else(|errors| panic!("{errors}\n{text}")).unit
}

fn facts() -> SourceFacts {
    SourceFacts { resolved: "/srv/web".into(), config_json: None, layers: Vec::new() }
}

const HEAD: &str = "rootfs = \"/srv/web\"\n[process]\nenv_file = \"web.env\"\n";

#[test]
fn variables_are_put_into_process_reload_and_oci_and_nowhere_else() {
    let text = "rootfs = \"/srv/web\"\ndescription = \"${A}\"\n[process]\nenv_file = [\"web.env\", \"-/etc/x\"]\n\
                args = [\"/bin/${A}\", \"--id=%n\", \"$$$HOME ${Z:-%p}\", \"${P}\"]\nuser = \"${U}:7\"\ncwd = \"/srv/${A}\"\n\
                env = { X = \"${A}\", A = \"own\", N = 1 }\n[reload]\nexec = [\"/bin/${A}\"]\n\
                [oci]\nlinux.sysctl = { \"net.core.somaxconn\" = \"${N}\" }\nannotations.a = \"%n\"\n";
    let unit = unit(text, "A=one\nU=1000\nN=1024\nP='%n ${A}'\n");
    assert_eq!(unit.description.as_deref(), Some("${A}"));
    let process = &unit.process;
    assert_eq!(process.args.as_deref().unwrap(), ["/bin/one", "--id=web", "$$HOME web", "%n ${A}"]);
    assert_eq!((process.user.as_deref(), process.cwd.as_deref()), (Some("1000:7"), Some("/srv/one")));
    assert_eq!(process.env["X"], "one");
    assert_eq!(unit.reload, Some(super::Reload::Exec(vec!["/bin/one".to_owned()])));
    assert_eq!(unit.oci["linux"]["sysctl"]["net.core.somaxconn"], "1024");
    assert_eq!(unit.oci["annotations"]["a"], "%n");
    let hidden = ["oci", "process.args", "process.cwd", "process.env.X", "process.user", "reload.exec"];
    assert!(unit.hidden.iter().eq(hidden), "{:?}", unit.hidden);
    assert!(process.env_files[1].optional && process.env_files[0].path == Path::new("/units/web.env"));
    // `env` wins over the files.
    let text = compile(&unit, &facts()).unwrap();
    let env = text.spec.process.unwrap().env.unwrap();
    for entry in ["A=own", "U=1000", "N=1", "P=%n ${A}", "X=one"] {
        assert_eq!(env.iter().filter(|found| *found == entry).count(), 1, "{entry} in {env:?}");
    }
    assert_eq!(env.len(), 6, "with PATH: {env:?}");
}

#[test]
fn without_env_files_a_dollar_means_nothing() {
    let text = "rootfs = \"/srv/web\"\n[process]\nargs = [\"/bin/sh\", \"-c\", \"echo $$ ${X} ${X:-y} ${ $(a)\"]\n";
    for text in [text.to_owned(), format!("{text}env_file = []\n")] {
        let unit = unit(&text, "X=1\n");
        assert_eq!(unit.process.args.unwrap()[2], "echo $$ ${X} ${X:-y} ${ $(a)");
        assert_eq!(unit.process.variables, Variables::default());
    }
}

#[test]
fn what_is_not_defined_is_a_mistake_at_its_line() {
    let text = format!(
        "{HEAD}args = [\n  \"/bin/web\",\n  \"${{NO}}\",\n  \"${{A:?the password}}\",\n]\nuser = \"${{B}}\"\ncwd = \"${{C}}\"\n[oci]\nprocess.cwd = \"${{C}}\"\nhostname = \"${{}}\"\n"
    );
    let errors = with(&text, "B='hunter2 hunter2'\nC=hunter2\n").unwrap_err();
    let expected = [
        "web.toml:6:3 `process.args[1]` holds `${NO}`, which no env file defines, define it there, or write `${NO:-default}`",
        "web.toml:7:3 `process.args[2]` holds `${A}`, which no env file gives a value: the password",
        "web.toml:9:8 `process.user` is the string \"${B}\", expected a user like \"1000:1000\" or \"web\"",
        "web.toml:10:7 `process.cwd` is the string \"${C}\", expected an absolute path inside the container, write \"/${C}\"",
        "web.toml:13:12 `oci.hostname` holds `${}`, expected `${NAME}`, `${NAME:-default}` or `${NAME:?message}`, write `$${` for `${` itself",
    ];
    assert_eq!(errors.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn values_with_variables_are_not_judged_before_the_files_are_read() {
    let text = "executable = \"/bin/web\"\n[process]\nenv_file = \"web.env\"\nargs = [\"${P}\", \"$$x\"]\nuser = \"${U}\"\n\
                cwd = \"${C}\"\n[oci]\nprocess.oomScoreAdj = 1\nprocess.selinuxLabel = \"${L}\"\nlinux.namespaces = [{ type = \"${T}\" }]\n";
    let unread = parse(&UnitName::new("web").unwrap(), file(), text).unwrap();
    assert_eq!(unread.env_files_at, [Place { file: file().to_owned(), line: 3, column: 12 }]);
    assert_eq!(unread.unit.process.args.unwrap(), ["${P}", "$x"]);
    let bad = with(text, "P=/bin/sh\nU=1\nC=/\nL=l\nT=hunter2\n").unwrap_err();
    assert!(bad.contains("oci.linux.namespaces[0].type") && bad.contains("`${T}`"), "{bad}");
    let (alone, _) = text.split_once("[oci]").unwrap();
    let bad = bad + &with(alone, "P=/bin/hunter2\nU=1\nC=/\n").unwrap_err();
    assert!(bad.contains("`process.args` runs `${P}`, but the container holds `/web` alone"), "{bad}");
    assert!(!bad.contains("hunter2"), "{bad}");
    // What needs no variable is judged at once.
    let wrong = text.replace("${U}", "a b").replace("${C}", "x");
    let errors = parse(&UnitName::new("web").unwrap(), file(), &wrong).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
}

#[test]
fn a_change_of_a_variable_takes_a_new_container_and_is_named_without_its_value() {
    let text = format!("{HEAD}args = [\"/bin/web\", \"${{PW}}\"]\nenv = {{ OWN = 1 }}\n");
    let (old, new) = (unit(&text, "PW=hunter2\nOWN=2\n"), unit(&text, "PW=hunter3\nOWN=3\nB=hunter4"));
    assert_ne!(container_fingerprint(&old, &facts()), container_fingerprint(&new, &facts()));
    let found = changes((&old, &facts()), (&new, &facts()));
    let shown: Vec<_> = found.iter().map(|c| (c.name.as_str(), c.old.as_deref(), c.new.as_deref())).collect();
    let (same, other) = (Some("(not shown)"), Some("(changed, not shown)"));
    let expected = [("process.args", same, other), ("process.env.B", None, same), ("process.env.PW", same, other)];
    assert_eq!(shown, expected);
    assert!(found.iter().all(|change| change.effect == Effect::Replace && change.hidden));
    assert!(!format!("{found:?}").contains("hunter"));
}

#[test]
fn where_a_variable_is_defined_means_nothing_to_the_container() {
    let text = "rootfs = \"/srv/web\"\n[process]\nargs = [\"/bin/web\"]\n";
    let of_text = unit(&format!("{text}env = {{ A = \"1\", B = 2 }}\n"), "");
    let of_file = unit(&format!("{text}env_file = \"web.env\"\nenv = {{ B = 2 }}\n"), "A=1\nB=3\n");
    assert_eq!(container_fingerprint(&of_text, &facts()), container_fingerprint(&of_file, &facts()));
    let found = changes((&of_text, &facts()), (&of_file, &facts()));
    let found: Vec<_> = found.iter().map(|change| (change.name.as_str(), change.effect)).collect();
    assert_eq!(found, [("process.env_file./units/web.env", Effect::Supervisor)]);
    // A value in the text is hidden as well when it is to become one of a file.
    let of_file = unit(&format!("{text}env_file = \"web.env\"\n"), "A=hunter2\n");
    let found = changes((&of_text, &facts()), (&of_file, &facts()));
    assert!(!format!("{found:?}").contains("hunter2"), "{found:?}");
}

#[test]
fn a_check_gets_a_variable_as_it_stands_and_that_is_said_unless_a_shell_puts_it_in() {
    let text = |env_file: &str, exec: &str| {
        format!("rootfs = \"/r\"\n[process]\nargs = [\"/a\"]\n{env_file}\n[health.readiness]\nexec = {exec}\n")
    };
    let warnings = |text: &str| {
        let found = parse(&UnitName::new("web").unwrap(), file(), text).unwrap().warnings;
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let plain = "[\"/bin/check\", \"--port=${PORT}\"]";
    let said = "web.toml:6:8 `health.readiness.exec` holds \"--port=${PORT}\", which a check gets as it stands, \
                a shell has the variables in its environment: [\"/bin/sh\", \"-c\", \"…\"]";
    assert_eq!(warnings(&text("env_file = \"web.env\"", plain)), [said]);
    assert_eq!(warnings(&text("", plain)), [] as [&str; 0], "nothing is replaced in any place");
    let shell = "[\"/bin/busybox\", \"sh\", \"-c\", \"check ${PORT}\"]";
    assert_eq!(warnings(&text("env_file = \"web.env\"", shell)), [] as [&str; 0]);
}
