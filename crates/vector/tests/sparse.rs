//! The forms of `sparsevec`: what comes back, what is put in order or left out, what is refused, in which order.

use omen_vector::sparse::{binary_bytes, parse_text, put_binary, read_binary};
use omen_vector::{InputError, Result};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ffi::CString;

type Elements = Vec<(i32, f32)>;

fn parsed(text: &str) -> Result<(usize, Elements)> {
    let literal = CString::new(text).expect("no zero byte");
    let parsed = parse_text(&literal)?;
    Ok((parsed.dim(), parsed.sorted()?))
}

fn text(dim: usize, elements: &[(i32, f32)]) -> String {
    let parts: Vec<_> = elements
        .iter()
        .map(|(index, x)| format!("{}:{x:?}", index + 1))
        .collect();
    format!("{{{}}}/{dim}", parts.join(","))
}

fn message(dim: i32, unused: i32, elements: &[(i32, f32)]) -> Vec<u8> {
    let (indices, x): (Vec<_>, Vec<_>) = elements.iter().copied().unzip();
    let mut message = vec![0; binary_bytes(x.len())];
    put_binary(dim, unused, &indices, &x, &mut message);
    message
}

fn received(message: &[u8]) -> Result<(usize, Elements)> {
    let binary = read_binary(message)?;
    binary.check_unused()?;
    let (mut indices, mut x) = (vec![0; binary.nnz()], vec![0.0; binary.nnz()]);
    binary.read_to(&mut indices, &mut x)?;
    Ok((binary.dim(), indices.into_iter().zip(x).collect()))
}

/// Dimension, and elements in ascending order of their indices.
fn values() -> impl Strategy<Value = (usize, BTreeMap<i32, f32>)> {
    let x = (-1e38f32..1e38).prop_filter("not zero", |&x| x != 0.0);
    (1usize..1_000_000_000).prop_flat_map(move |dim| {
        let indices = 0..dim.min(2_000_000) as i32;
        let elements = prop::collection::btree_map(indices, x.clone(), 0..dim.min(40));
        (Just(dim), elements)
    })
}

proptest! {
    #[test]
    fn text_comes_back_in_order((dim, elements) in values(), seed in any::<u64>()) {
        let ordered: Elements = elements.into_iter().collect();
        let mut mixed = ordered.clone();
        mixed.sort_by_key(|&(index, _)| (index as u64).wrapping_mul(seed | 1));
        // Zeros are left out, wherever they say they are.
        mixed.insert(mixed.len() / 2, (-7, 0.0));
        prop_assert_eq!(parsed(&text(dim, &mixed))?, (dim, ordered));
    }

    #[test]
    fn binary_comes_back((dim, elements) in values()) {
        let elements: Elements = elements.into_iter().collect();
        let message = message(dim as i32, 0, &elements);
        prop_assert_eq!(message.len(), 12 + 8 * elements.len());
        prop_assert_eq!(received(&message)?, (dim, elements));
    }

    /// Any cut of a message says how much was wanted.
    #[test]
    fn cut_messages((dim, elements) in values(), share in 0.0..1.0) {
        let message = message(dim as i32, 0, &elements.into_iter().collect::<Elements>());
        let cut = (message.len() as f64 * share) as usize;
        let needed = if cut < 12 { 12 } else { message.len() };
        prop_assert_eq!(received(&message[..cut]), Err(InputError::Short { needed }));
    }
}

#[test]
fn too_small_numbers_are_told_from_zero() {
    for number in ["1e-46", "-1e-400", "0.0000001e-40", "0x1p-200", "0x.8p-149"] {
        let error = parsed(&format!("{{1:{number}}}/1")).expect_err("too small");
        let wanted = format!("\"{number}\" is out of range for type sparsevec");
        assert_eq!(error.to_string(), wanted);
    }
    for number in [
        "0", "-0", "0.000", ".0e-400", "0e99999", "0x0p-400", "-0X.0p9",
    ] {
        assert_eq!(parsed(&format!("{{1:{number}}}/1")), Ok((1, vec![])));
    }
    assert_eq!(parsed("{1:1e-45}/1"), Ok((1, vec![(0, f32::from_bits(1))])));
}

#[test]
fn of_two_mistakes_the_first_counts() {
    let one = 1.0f32;
    let refused = |text: &str| parsed(text).expect_err("refused");
    assert_eq!(
        refused("{9:1,0:1}/0").to_string(),
        "sparsevec must have at least 1 dimension"
    );
    assert_eq!(
        refused("{9:1,1:1,1:1}/5"),
        InputError::DuplicateIndex,
        "in order of the indices"
    );
    assert_eq!(refused("{9:1,1:1,1:1,0:1}/5"), InputError::IndexOutOfBounds);
    assert_eq!(
        refused("{99999999999999999999:1}/5"),
        InputError::IndexOutOfBounds
    );
    assert_eq!(
        refused("{-99999999999999999999:1}/5"),
        InputError::IndexOutOfBounds
    );
    let refused = |message: &[u8]| received(message).expect_err("refused");
    assert_eq!(refused(&message(5, 3, &[(9, one)])), InputError::Unused(3));
    assert_eq!(
        refused(&message(5, 0, &[(2, one), (1, one)])),
        InputError::NotAscending
    );
    assert_eq!(
        refused(&message(5, 0, &[(2, one), (2, one)])),
        InputError::DuplicateIndex
    );
    assert_eq!(
        refused(&message(5, 0, &[(2, one), (-1, one)])),
        InputError::IndexOutOfBounds
    );
    assert_eq!(
        refused(&message(1, 0, &[(0, one), (1, one)])),
        InputError::MoreElementsThanDimensions
    );
    assert_eq!(
        refused(&message(5, 0, &[(0, 0.0)])),
        InputError::ZeroElement
    );
    let wrong_index = message(5, 0, &[(7, one), (8, one)]);
    assert_eq!(
        refused(&wrong_index[..16]),
        InputError::IndexOutOfBounds,
        "before it is cut short"
    );
    let zero = message(5, 0, &[(0, 0.0), (1, one)]);
    assert_eq!(
        refused(&zero[..24]),
        InputError::ZeroElement,
        "before it is cut short"
    );
}

#[test]
fn limits() {
    let many = |n: usize| format!("{{1:1{}}}/5", ",2:0".repeat(n - 1));
    assert_eq!(parsed(&many(16_000)), Ok((5, vec![(0, 1.0)])));
    assert_eq!(parsed(&many(16_001)), Err(InputError::TooManyElements));
    assert_eq!(parsed("{}/1000000000"), Ok((1_000_000_000, vec![])));
    assert!(parsed("{}/1000000001").is_err());
    let head = |dim: i32, nnz: i32| [dim, nnz, 0].map(i32::to_be_bytes).concat();
    assert_eq!(
        received(&head(20_000, 16_001)),
        Err(InputError::TooManyElements)
    );
    assert_eq!(
        received(&head(20_000, -1)),
        Err(InputError::NegativeElements)
    );
    assert_eq!(
        received(&head(20_000, 16_000)),
        Err(InputError::Short { needed: 128_012 })
    );
}
