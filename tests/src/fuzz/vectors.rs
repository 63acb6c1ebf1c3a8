//! Text and binary input of the type `vector`.

use omen_vector::{
    HEAD_BYTES, MAX_DIM, check_finite, parse_text, put_binary, read_binary, room_for,
};
use std::ffi::CString;
use std::fmt::Write;

/// Reads `input`, up to its first zero byte, as text. What is accepted is finite, within the limits, and comes back from its own text. Whether it
/// is accepted.
pub fn text(input: &[u8]) -> bool {
    let end = input.iter().position(|&c| c == 0).unwrap_or(input.len());
    let literal = CString::new(&input[..end]).expect("no zero byte in it");
    let room = room_for(&literal);
    assert!((1..=MAX_DIM).contains(&room));
    let mut x = vec![0.0; room];
    match parse_text(&literal, &mut x) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
        Ok(dim) => {
            assert!((1..=room).contains(&dim));
            x.truncate(dim);
            assert!(x.iter().all(|&x| check_finite(x).is_ok()));
            let again = CString::new(written(&x)).expect("no zero byte in it");
            let mut y = vec![0.0; room_for(&again)];
            assert_eq!(parse_text(&again, &mut y), Ok(dim));
            assert_eq!(bits(&x), bits(&y));
            true
        }
    }
}

/// Reads `message` as the binary form; as [`text`].
pub fn binary(message: &[u8]) -> bool {
    let Ok(read) = read_binary(message) else {
        return false;
    };
    assert!((1..=MAX_DIM).contains(&read.dim()) && read.n_bytes() <= message.len());
    let mut x = vec![0.0; read.dim()];
    if read.read_to(&mut x).is_err() {
        assert!(x.iter().any(|x| !x.is_finite()));
        return false;
    }
    let mut again = vec![0; HEAD_BYTES + 4 * x.len()];
    put_binary(0, &x, &mut again);
    assert_eq!(again, message[..read.n_bytes()]);
    true
}

/// The text of `x`.
pub fn written(x: &[f32]) -> String {
    let mut text = String::new();
    for x in x {
        write!(text, "{}{x:?}", if text.is_empty() { '[' } else { ',' }).expect("a string grows");
    }
    text + "]"
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}
