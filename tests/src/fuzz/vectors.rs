//! Text and binary input of the types `vector` and `halfvec`; those of `sparsevec` are in [`sparse`](super::sparse).

pub use omen_vector::f16;

use omen_vector::dense::{binary_bytes, parse_text, put_binary, read_binary, room_for};
use omen_vector::{Element, InputError};
use std::ffi::CString;
use std::fmt::Write;

/// Reads `input`, up to its first zero byte, as text. What is accepted is finite, within the limits, and comes back from its own text. Whether it
/// is accepted.
pub fn text<E: Element>(input: &[u8]) -> bool {
    let end = input.iter().position(|&c| c == 0).unwrap_or(input.len());
    let literal = CString::new(&input[..end]).expect("no zero byte in it");
    let room = room_for::<E>(&literal);
    assert!((1..=E::TYPE.max_dim()).contains(&room));
    let mut x = vec![E::ZERO; room];
    match parse_text(&literal, &mut x) {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
        Ok(dim) => {
            assert!((1..=room).contains(&dim));
            x.truncate(dim);
            assert!(x.iter().all(|x| x.is_finite()));
            let again = CString::new(written(&x)).expect("no zero byte in it");
            let mut y = vec![E::ZERO; room_for::<E>(&again)];
            assert_eq!(parse_text(&again, &mut y), Ok(dim));
            assert_eq!(bits(&x), bits(&y));
            true
        }
    }
}

/// Reads `message` as the binary form; as [`text`].
pub fn binary<E: Element>(message: &[u8]) -> bool {
    let Ok(read) = read_binary::<E>(message) else {
        return false;
    };
    assert!((1..=E::TYPE.max_dim()).contains(&read.dim()));
    let mut x = vec![E::ZERO; read.dim()];
    match read.read_to(&mut x) {
        Err(InputError::Short { needed }) => assert!(needed > message.len()),
        Err(_) => assert!(x.iter().any(|x| !x.is_finite())),
        Ok(()) => {
            let n_bytes = read.n_bytes();
            assert!(n_bytes <= message.len() && x.iter().all(|x| x.is_finite()));
            let mut again = vec![0; binary_bytes::<E>(x.len())];
            let unused = u16::from_be_bytes([message[2], message[3]]);
            assert_eq!(read.check_unused().is_ok(), unused == 0);
            put_binary(unused, &x, &mut again);
            assert_eq!(again, message[..n_bytes]);
            return unused == 0;
        }
    }
    false
}

/// The text of `x`.
pub fn written<E: Element>(x: &[E]) -> String {
    let mut text = String::new();
    for x in x {
        let separator = if text.is_empty() { '[' } else { ',' };
        write!(text, "{separator}{:?}", x.to_f32()).expect("a string grows");
    }
    text + "]"
}

fn bits<E: Element>(x: &[E]) -> Vec<u32> {
    x.iter().map(|x| x.to_f32().to_bits()).collect()
}
