//! What is in force when texts, drop-ins and directories come and go.

use super::merge::JUDGED_MAX;
use super::*;
use crate::plan::BootTime;
use crate::store::Good;

const UNITS: &str = "/u";
const ABOVE: &str = "/v";

pub(super) fn at(ms: u64) -> Now {
    Now { boot: BootTime(0).after(Duration::from_millis(ms)), wall: WallTime(ms) }
}

pub(super) fn valid(_: &Unit, _: &SourceFacts) -> Result<Vec<String>, Vec<SpecError>> {
    Ok(Vec::new())
}

pub(super) fn web() -> UnitName {
    UnitName::new("web").unwrap()
}

/// With the rootfs `/r` looked at.
pub(super) fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::new(&[UNITS.into(), ABOVE.into()]);
    let facts = SourceFacts { resolved: "/r".into(), config_json: None, layers: Vec::new() };
    catalogue.looked(&Source::Rootfs("/r".into()), Ok(Arc::new(facts)), valid, WallTime(0));
    catalogue
}

fn unit(catalogue: &mut Catalogue, arg: &str) {
    let text = format!("rootfs = \"/r\"\nprocess.args = [\"/a\", \"{arg}\"]\n");
    catalogue.read(Path::new("/u/web.toml"), web(), text, "/u/web.toml".into(), valid, WallTime(0));
}

fn drop_in(catalogue: &mut Catalogue, path: &str, text: &str) {
    catalogue.drop_in_read(Path::new(path), text.to_owned(), path.into(), valid, WallTime(0));
}

/// Argument and description in force.
fn force(catalogue: &Catalogue) -> Option<(String, String)> {
    let good = catalogue.in_force(&web())?;
    let args = good.unit.process.args.clone().unwrap_or_default();
    Some((args.last().cloned().unwrap_or_default(), good.unit.description.clone().unwrap_or_default()))
}

fn is(arg: &str, description: &str) -> Option<(String, String)> {
    Some((arg.to_owned(), description.to_owned()))
}

#[test]
fn no_merge_is_in_force_that_was_never_on_disk() {
    let mut it = catalogue();
    unit(&mut it, "1");
    drop_in(&mut it, "/u/web.toml.d/10.toml", "description = \"one\"\n");
    assert_eq!(force(&it), is("1", "one"));
    // Together they are not valid: what was before stays, not the half of it that is.
    it.begin_batch();
    unit(&mut it, "2");
    drop_in(&mut it, "/u/web.toml.d/10.toml", "description = 2\n");
    it.end_batch(valid, WallTime(0));
    assert_eq!(force(&it), is("1", "one"));
    assert_eq!(it.errors(&web()).len(), 1);
    it.begin_batch();
    drop_in(&mut it, "/u/web.toml.d/10.toml", "description = \"two\"\n");
    assert_eq!(force(&it), is("1", "one"));
    it.end_batch(valid, WallTime(0));
    assert_eq!(force(&it), is("2", "two"));
}

#[test]
fn the_last_directory_of_a_name_counts_and_names_order_the_merge() {
    let mut it = catalogue();
    unit(&mut it, "1");
    drop_in(&mut it, "/v/web.toml.d/20.toml", "description = \"v20\"\n");
    drop_in(&mut it, "/u/web.toml.d/20.toml", "description = \"u20\"\n");
    drop_in(&mut it, "/v/web.toml.d/10.toml", "description = \"v10\"\n");
    assert_eq!(force(&it), is("1", "v20"));
    it.drop_in_refused(Path::new("/v/web.toml.d/20.toml"), None, valid, WallTime(0));
    assert_eq!(force(&it), is("1", "v10"), "the mask holds for its name");
    it.drop_in_gone(Path::new("/v/web.toml.d/20.toml"), valid, WallTime(0));
    assert_eq!(force(&it), is("1", "u20"));
    it.drop_ins_gone(Path::new("/u/web.toml.d"), valid, WallTime(0));
    assert_eq!(force(&it), is("1", "v10"));
    it.drop_in_refused(Path::new("/v/web.toml.d/10.toml"), Some("not read".to_owned()), valid, WallTime(0));
    assert_eq!((force(&it), it.errors(&web())), (is("1", "v10"), &["not read".to_owned()][..]));
}

#[test]
fn a_directory_of_drop_ins_that_cannot_be_read_keeps_what_was_in_force() {
    let mut it = catalogue();
    unit(&mut it, "1");
    drop_in(&mut it, "/u/web.toml.d/10.toml", "description = \"one\"\n");
    it.drop_ins_lost(Path::new("/u/web.toml.d"), "owned by somebody".to_owned(), valid, WallTime(0));
    unit(&mut it, "2");
    assert_eq!((force(&it), it.errors(&web())), (is("1", "one"), &["owned by somebody".to_owned()][..]));
    it.drop_ins_listed(Path::new("/u/web.toml.d"), &["10.toml".into()], valid, at(0));
    assert_eq!((force(&it), it.errors(&web()).len()), (is("2", "one"), 0));
}

#[test]
fn remembered_drop_ins_count_until_their_directory_says_otherwise() {
    let remembered = |it: &Catalogue| {
        let good = it.in_force(&web()).unwrap();
        Good {
            text: good.text.to_string(),
            layers: good.layers.clone(),
            variables: None,
            configs: Vec::new(),
            config: None,
            path: good.file.clone(),
            resolved: good.resolved.clone(),
            source: "/r".into(),
            roots: Vec::new(),
            directory: (0, 0),
            since_ms: 7,
            earlier: None,
            bad: None,
        }
    };
    let mut before = catalogue();
    unit(&mut before, "1");
    drop_in(&mut before, "/u/web.toml.d/10.toml", "description = \"one\"\n");
    let good = remembered(&before);

    let mut it = catalogue();
    let (good, trial) = recall(&web(), good, valid).unwrap();
    it.remember(good, trial);
    assert_eq!(force(&it), is("1", "one"));
    it.begin_batch();
    let files = ["web.toml".into()].into();
    it.directory_listed(Path::new(UNITS), DirectoryId::default(), &files, &["web.toml.d".into()].into(), at(0));
    unit(&mut it, "1");
    it.drop_ins_listed(Path::new("/u/web.toml.d"), &[], valid, at(0));
    it.end_batch(valid, WallTime(0));
    assert_eq!(force(&it), is("1", "one"), "it may come back");
    assert_eq!(it.in_force(&web()).unwrap().since, WallTime(7));
    assert_eq!(it.expire(valid, at(999)), Some(at(1000).boot));
    assert_eq!(force(&it), is("1", "one"));
    assert_eq!(it.expire(valid, at(1000)), None);
    assert_eq!(force(&it), is("1", ""));
}

#[test]
fn drop_ins_of_what_can_be_no_unit_are_told_of() {
    let mut it = catalogue();
    let dir = Path::new("/u/my web.toml.d");
    drop_in(&mut it, "/u/my web.toml.d/10.toml", "");
    it.drop_ins_listed(dir, &["10.toml".into()], valid, at(0));
    assert!(it.notes()[0].starts_with("/u/my web.toml.d: `my web` is not a unit name"), "{:?}", it.notes());
    it.drop_ins_gone(dir, valid, WallTime(0));
    assert_eq!(it.notes(), [] as [String; 0]);
    assert!(!it.is_drop_in_dir(Path::new("/elsewhere/web.toml.d")) && it.is_drop_in_dir(Path::new("/v/web.toml.d")));
}

#[test]
fn a_drop_in_that_is_written_is_said() {
    let mut it = catalogue();
    unit(&mut it, "1");
    it.drop_in_busy(Path::new("/u/web.toml.d/10.toml"), " by pid 3".to_owned());
    assert_eq!(it.drift(&web()).as_deref(), Some("/u/web.toml.d/10.toml is being written by pid 3"));
    assert!(it.is_unsettled(&web()));
    drop_in(&mut it, "/u/web.toml.d/10.toml", "");
    assert_eq!((it.drift(&web()), it.is_unsettled(&web())), (None, false));
}

fn defaults(catalogue: &mut Catalogue, text: &str) {
    catalogue.defaults_read(Path::new("/moored.toml"), text, "/moored.toml".into(), valid, WallTime(0));
}

fn stop_timeout(catalogue: &Catalogue) -> u64 {
    catalogue.in_force(&web()).unwrap().unit.stop.timeout.as_secs()
}

#[test]
fn defaults_are_below_every_text_and_broken_ones_change_nothing() {
    let mut it = catalogue();
    defaults(&mut it, "[defaults]\nstop.timeout = \"5s\"\n");
    unit(&mut it, "1");
    assert_eq!(stop_timeout(&it), 5);
    defaults(&mut it, "[defaults]\nstop.timeout = \"6s\"\nbundle = \"/b\"\n");
    assert_eq!((stop_timeout(&it), it.defaults_errors().len(), it.errors(&web()).len()), (5, 1, 0));
    unit(&mut it, "2");
    assert_eq!((stop_timeout(&it), force(&it)), (5, is("2", "")));
    defaults(&mut it, "[defaults]\nstop.timeout = \"7s\"\n");
    assert_eq!((stop_timeout(&it), it.defaults_errors().len()), (7, 0));
    it.defaults_not_read(NoDefaults::Refused("not trusted".to_owned()), valid, at(0));
    it.defaults_not_read(NoDefaults::MissingDirectory("no directory".to_owned()), valid, at(0));
    assert_eq!((stop_timeout(&it), it.defaults_errors()), (7, &["no directory".to_owned()][..]));
    it.defaults_not_read(NoDefaults::Missing, valid, at(0));
    assert_eq!((stop_timeout(&it), it.defaults_errors().len()), (30, 0));
}

#[test]
fn remembered_defaults_hold_for_a_second_when_the_file_is_not_there() {
    let mut before = catalogue();
    defaults(&mut before, "[defaults]\nstop.timeout = \"5s\"\n");
    let mut it = catalogue();
    it.remember_defaults(before.defaults().unwrap().clone());
    unit(&mut it, "1");
    it.defaults_not_read(NoDefaults::Missing, valid, at(0));
    assert_eq!((it.expire(valid, at(999)), stop_timeout(&it)), (Some(at(1000).boot), 5));
    assert_eq!((it.expire(valid, at(1000)), stop_timeout(&it)), (None, 30));
}

#[test]
fn a_change_of_all_units_is_judged_in_slices() {
    let mut it = catalogue();
    let names: Vec<UnitName> = (0..3 * JUDGED_MAX).map(|n| UnitName::new(&format!("u{n}")).unwrap()).collect();
    it.begin_batch();
    for name in &names {
        let path = format!("/u/{name}.toml");
        let text = "rootfs = \"/r\"\nprocess.args = [\"/a\"]\n".to_owned();
        it.read(Path::new(&path), name.clone(), text, path.clone().into(), valid, WallTime(0));
    }
    let in_force = |it: &Catalogue| names.iter().filter(|name| it.in_force(name).is_some()).count();
    for round in 1..=3 {
        it.end_batch(valid, WallTime(0));
        assert_eq!((in_force(&it), it.is_pending()), (round * JUDGED_MAX, round < 3));
        assert_eq!(names.iter().filter(|name| it.is_unsettled(name)).count(), (3 - round) * JUDGED_MAX);
    }
}

#[test]
fn what_a_set_keeps_to_go_back_to_is_what_will_be_kept() {
    let mut it = catalogue();
    unit(&mut it, "1");
    let proven = Some(it.in_force(&web()).unwrap().fingerprint);
    it.withhold(true);
    unit(&mut it, "2");
    let next = it.next(&web()).and_then(Next::text).cloned().unwrap();
    let earlier = |it: &Catalogue, proven| {
        it.earlier_of(&web(), &next, Standing { proven, running: None }).map(|earlier| earlier.fingerprint)
    };
    assert_eq!(
        (earlier(&it, None), earlier(&it, proven)),
        (None, proven),
        "one that has not done well is none to go back to"
    );
    it.withhold(false);
    it.release(valid, WallTime(0));
    assert_eq!(force(&it), is("2", ""));
    it.keep_earlier(&web(), Standing { proven, running: None });
    assert_eq!(it.trial(&web()).unwrap().earlier.as_ref().map(|earlier| earlier.fingerprint), proven);
}

/// It is recorded in the run-dir that a text did well, and then in the state-dir that nothing is kept: between the two a supervisor may die.
#[test]
fn of_a_text_that_did_well_nothing_is_kept_whoever_died_in_between() {
    let mut it = catalogue();
    unit(&mut it, "1");
    let before = Arc::clone(it.in_force(&web()).unwrap());
    unit(&mut it, "2");
    let now = Arc::clone(it.in_force(&web()).unwrap());
    let mut next = catalogue();
    next.remember((*now).clone(), Trial::remembered(Some((*before).clone()), None));
    let kept = |it: &Catalogue| it.trial(&web()).unwrap().earlier.as_ref().map(|earlier| earlier.fingerprint);
    next.keep_earlier(&web(), Standing { proven: Some(before.fingerprint), running: None });
    assert_eq!(kept(&next), Some(before.fingerprint), "it is on trial");
    next.keep_earlier(&web(), Standing { proven: Some(now.fingerprint), running: None });
    assert_eq!(kept(&next), None);
}
