//! The choice of a variant, each in a process of its own.

use std::ffi::OsStr;
use std::process::Command;

use omen_distance::{Isa, isa, isa_note, variants};

/// What [`reports_its_choice`] of this file prints with `OMEN_SIMD` set or unset.
fn run(value: Option<&OsStr>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "reports_its_choice", "--nocapture"]);
    match value {
        Some(value) => command.env("OMEN_SIMD", value),
        None => command.env_remove("OMEN_SIMD"),
    };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{value:?}: {text}");
    text
}

fn widest() -> &'static str {
    variants().last().unwrap().isa().name()
}

#[test]
fn reports_its_choice() {
    assert_eq!(omen_distance::dot(&[2.0, 3.0], &[5.0, 7.0]), 31.0);
    println!("chosen: {}. note: {:?}.", isa().name(), isa_note());
}

#[test]
fn override_is_honoured() {
    for v in variants() {
        let name = v.isa().name();
        let text = run(Some(name.as_ref()));
        assert!(
            text.contains(&format!("chosen: {name}. note: None.")),
            "{text}"
        );
    }
}

#[test]
fn unavailable_override_falls_back_with_a_note() {
    let missing = Isa::ALL
        .into_iter()
        .filter(|isa| !isa.is_available())
        .map(Isa::name);
    for name in missing.chain(["mmx", "AVX2", "avx2 ", "avx512+vnni"]) {
        let text = run(Some(name.as_ref()));
        let start = format!(
            "chosen: {}. note: Some(\"OMEN_SIMD={name}: this machine has scalar",
            widest()
        );
        assert!(text.contains(&start), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_falls_back_too() {
    use std::os::unix::ffi::OsStrExt;
    let text = run(Some(OsStr::from_bytes(b"avx\xff")));
    assert!(
        text.contains(&format!("chosen: {}. note: Some(", widest())),
        "{text}"
    );
}

#[test]
fn widest_by_default() {
    for value in [None, Some(OsStr::new(""))] {
        let text = run(value);
        assert!(
            text.contains(&format!("chosen: {}. note: None.", widest())),
            "{text}"
        );
    }
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
