//! The choice of a variant, each in a process of its own.

use std::process::{Command, Output};

use omen_distance::{Isa, isa, variants};

/// Runs [`reports_its_choice`] of this file with `OMEN_ISA` set or unset.
fn run(name: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "reports_its_choice", "--nocapture"]);
    match name {
        Some(name) => command.env("OMEN_ISA", name),
        None => command.env_remove("OMEN_ISA"),
    };
    command.output().unwrap()
}

#[test]
fn reports_its_choice() {
    assert_eq!(omen_distance::dot(&[2.0, 3.0], &[5.0, 7.0]), 31.0);
    println!("chosen: {}.", isa().name());
}

#[test]
fn override_is_honoured() {
    for v in variants() {
        let output = run(Some(v.isa().name()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains(&format!("chosen: {}.", v.isa().name())),
            "{text}"
        );
    }
}

#[test]
fn unavailable_override_is_refused() {
    let missing = Isa::ALL
        .into_iter()
        .filter(|isa| !isa.is_available())
        .map(Isa::name);
    for name in missing.chain(["mmx", ""]) {
        assert!(
            !run(Some(name)).status.success(),
            "OMEN_ISA={name} was accepted"
        );
    }
}

#[test]
fn widest_by_default() {
    let output = run(None);
    let widest = variants().last().unwrap().isa().name();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("chosen: {widest}.")), "{text}");
}

#[test]
fn names_round_trip() {
    assert!(
        Isa::ALL
            .into_iter()
            .all(|isa| Isa::from_name(isa.name()) == Some(isa))
    );
    assert_eq!(variants()[0].isa(), Isa::Scalar);
}
