//! Text and binary input of the type `sparsevec`.

use omen_vector::sparse::{
    MAX_NNZ, binary_bytes, check_index, check_nnz, parse_text, put_binary, read_binary,
};
use omen_vector::{InputError, VectorType};
use std::ffi::CString;
use std::fmt::Write;

/// Reads `input`, up to its first zero byte, as text. What is accepted is within the limits, in order, finite and not zero, and comes back from its
/// own text. Whether it is accepted.
pub fn text(input: &[u8]) -> bool {
    let end = input.iter().position(|&c| c == 0).unwrap_or(input.len());
    let literal = CString::new(&input[..end]).expect("no zero byte in it");
    let parsed = parse_text(&literal).and_then(|parsed| Ok((parsed.dim(), parsed.sorted()?)));
    match parsed {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
        Ok((dim, elements)) => {
            check(dim, &elements);
            let again = CString::new(written(dim, &elements)).expect("no zero byte in it");
            let parsed = parse_text(&again).expect("a value of its own text");
            assert_eq!(parsed.dim(), dim);
            assert_eq!(parsed.sorted(), Ok(elements));
            true
        }
    }
}

/// Reads `message` as the binary form; as [`text`].
pub fn binary(message: &[u8]) -> bool {
    let Ok(read) = read_binary(message) else {
        return false;
    };
    let (dim, nnz) = (read.dim(), read.nnz());
    assert!(nnz <= MAX_NNZ && nnz <= dim);
    let (mut indices, mut x) = (vec![0; nnz], vec![0.0; nnz]);
    match read.read_to(&mut indices, &mut x) {
        Err(InputError::Short { needed }) => assert!(needed > message.len()),
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(()) => {
            let n_bytes = read.n_bytes();
            assert!(n_bytes <= message.len());
            let elements: Vec<_> = indices.iter().copied().zip(x.iter().copied()).collect();
            check(dim, &elements);
            let unused = i32::from_be_bytes(message[8..12].try_into().expect("four bytes"));
            assert_eq!(read.check_unused().is_ok(), unused == 0);
            let mut again = vec![0; binary_bytes(nnz)];
            put_binary(dim as i32, unused, &indices, &x, &mut again);
            assert_eq!(again, message[..n_bytes]);
            return unused == 0;
        }
    }
    false
}

/// Panics unless these are elements of a value.
fn check(dim: usize, elements: &[(i32, f32)]) {
    VectorType::Sparsevec.check_dim(dim).expect("a dimension");
    check_nnz(elements.len() as i64, dim).expect("a number of elements");
    let mut before = None;
    for &(index, x) in elements {
        check_index(index, before, dim).expect("an index");
        assert!(x.is_finite() && x != 0.0);
        before = Some(index);
    }
}

/// The text of these elements, whose indices count from 0.
pub fn written(dim: usize, elements: &[(i32, f32)]) -> String {
    let mut text = String::from("{");
    for &(index, x) in elements {
        let separator = if text.len() > 1 { "," } else { "" };
        write!(text, "{separator}{}:{x:?}", i64::from(index) + 1).expect("a string grows");
    }
    text + &format!("}}/{dim}")
}
