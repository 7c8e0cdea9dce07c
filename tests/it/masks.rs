//! Directories in their order, and the links to /dev/null that mask a unit of an earlier one (DESIGN §7).

use std::fs;
use std::os::unix::fs::symlink;

use super::world::World;

#[test]
fn a_link_to_dev_null_masks_a_unit_of_an_earlier_directory() {
    let Some(mut world) = World::prepare("masks") else { return };
    let above = world.dir.join("above");
    fs::create_dir(&above).unwrap();
    world.supervisor = world.supervisor.with(&["--units", above.to_str().unwrap()]);
    world.supervisor.up();
    let first = world.service("web", "one");
    let other = world.service("other", "one");

    let mask = above.join("web.toml");
    symlink("/dev/null", &mask).unwrap();
    let row = world.wait_reason("web", "masked by");
    assert!(row["reason"].as_str().unwrap().contains(&format!("masked by {}", mask.display())), "{row}");
    first.ended();
    world.wait_phase("web", &["stopped"]);
    world.kept("other", &other, "another unit is masked");
    assert_eq!(world.says(&["sync"]).0, 0, "a mask is no mistake");

    assert!(world.happened("web").iter().any(|(what, _)| what == "masked"), "{:?}", world.happened("web"));

    // It holds over edits of what it masks, and over a restart of the supervisor.
    world.unit("web", &world.service_text("two"));
    world.unit("web", "no unit at all");
    assert_eq!(world.says(&["sync"]).0, 0, "what is masked is not judged");
    world.kill9(world.pids().supervisor);
    world.kept("other", &other, "the supervisor was killed");
    world.wait_phase("web", &["stopped"]);
    let (code, _, said) = world.says(&["start", "web"]);
    assert!(code != 0 && said.contains("masked by"), "{code} {said}");

    world.unit("web", &world.service_text("two"));
    fs::remove_file(&mask).unwrap();
    let second = world.running("web");
    assert_ne!(second.id, first.id);
}

/// A mask and what it covers go at once. Seen one after the other, the text that was read under the mask would come into force in between.
#[test]
fn what_went_with_its_mask_does_not_come_back() {
    let Some(mut world) = World::prepare("mask-goes") else { return };
    let (above, text) = (world.dir.join("above"), world.dir.join("web-text"));
    fs::create_dir(&above).unwrap();
    world.supervisor = world.supervisor.with(&["--units", above.to_str().unwrap()]);
    world.supervisor.up();
    // Its root is known, so that nothing waits for a look at it.
    world.service("other", "one");
    let mask = above.join("web.toml");
    symlink("/dev/null", &mask).unwrap();
    world.wait_reason("web", "masked by");
    fs::write(&text, world.service_text("one")).unwrap();
    symlink(&text, world.units().join("web.toml")).unwrap();
    world.ok(&["sync"]);

    fs::remove_file(&text).unwrap();
    fs::remove_file(&mask).unwrap();
    // Both are known to be absent, and neither is settled: that is what a sync cuts short.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(world.says(&["sync"]).0, 1, "the link leads nowhere");
    let row = world.find("web").unwrap();
    assert_eq!((row["phase"].as_str(), row["id"].as_str()), (Some("failed"), None), "{row}\n{}", world.output());
    assert!(!world.happened("web").iter().any(|(what, _)| what == "started"), "{:?}", world.happened("web"));
}
