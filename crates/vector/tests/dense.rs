//! The forms of `vector` and `halfvec`: what comes back, what is rounded, what is refused, in which order.

use omen_vector::dense::{binary_bytes, parse_text, put_binary, read_binary, room_for};
use omen_vector::{Element, InputError, Result, VectorType, f16};
use proptest::prelude::*;
use std::ffi::CString;

fn parsed<E: Element>(text: &str) -> Result<Vec<E>> {
    let literal = CString::new(text).expect("no zero byte");
    let mut x = vec![E::ZERO; room_for::<E>(&literal)];
    let dim = parse_text(&literal, &mut x)?;
    x.truncate(dim);
    Ok(x)
}

fn message<E: Element>(unused: u16, x: &[E]) -> Vec<u8> {
    let mut message = vec![0; binary_bytes::<E>(x.len())];
    put_binary(unused, x, &mut message);
    message
}

fn received<E: Element>(message: &[u8]) -> Result<Vec<E>> {
    let binary = read_binary::<E>(message)?;
    binary.check_unused()?;
    let mut x = vec![E::ZERO; binary.dim()];
    binary.read_to(&mut x)?;
    Ok(x)
}

fn halves() -> impl Strategy<Value = f16> {
    any::<u16>()
        .prop_map(f16::from_bits)
        .prop_filter("finite", |x| x.is_finite())
}

/// The nearest half, of two the even one, found by looking at all of them.
fn nearest_half(x: f32) -> f16 {
    let all = (0..0x7C00_u16).map(f16::from_bits);
    let distance = |h: f16| (f64::from(h.to_f32()) - f64::from(x.abs())).abs();
    let mut best = f16::ZERO;
    for h in all {
        let (d, least) = (distance(h), distance(best));
        if d < least || d == least && h.to_bits() % 2 == 0 {
            best = h;
        }
    }
    // What would be nearer to the number after the largest is beyond the range.
    if f64::from(x.abs()) >= 65520.0 {
        best = f16::INFINITY;
    }
    if x.is_sign_negative() { -best } else { best }
}

proptest! {
    #[test]
    fn text_comes_back(x in prop::collection::vec(-1e38f32..1e38, 1..50)) {
        prop_assert_eq!(parsed::<f32>(&format!("{x:?}"))?, x);
    }

    #[test]
    fn text_of_halves_comes_back(x in prop::collection::vec(halves(), 1..50)) {
        let text = format!("{:?}", x.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
        prop_assert_eq!(parsed::<f16>(&text)?, x);
    }

    #[test]
    fn binary_comes_back(x in prop::collection::vec(-1e38f32..1e38, 1..50)) {
        prop_assert_eq!(received::<f32>(&message(0, &x))?, x);
    }

    #[test]
    fn binary_of_halves_comes_back(x in prop::collection::vec(halves(), 1..50)) {
        let message = message(0, &x);
        prop_assert_eq!(message.len(), 4 + 2 * x.len());
        prop_assert_eq!(received::<f16>(&message)?, x);
    }

    /// Any cut of a message says how much was wanted.
    #[test]
    fn cut_messages(x in prop::collection::vec(halves(), 1..20), share in 0.0..1.0) {
        let message = message(0, &x);
        let cut = (message.len() as f64 * share) as usize;
        let needed = if cut < 4 { 4 } else { message.len() };
        prop_assert_eq!(received::<f16>(&message[..cut]), Err(InputError::Short { needed }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn halves_are_the_nearest(x in prop_oneof![-66000f32..66000.0, -1f32..1.0, -1e-4f32..1e-4, -1e-7f32..1e-7]) {
        let nearest = nearest_half(x);
        prop_assert_eq!(f16::from_f32(x).to_bits(), nearest.to_bits());
        let read = parsed::<f16>(&format!("[{x:?}]"));
        if nearest.is_finite() {
            prop_assert_eq!(read?[0].to_bits(), nearest.to_bits());
        } else {
            let number = format!("{x:?}");
            prop_assert_eq!(read, Err(InputError::OutOfRange { vector_type: VectorType::Halfvec, number }));
        }
    }
}

#[test]
fn numbers_beyond_the_range_are_told_from_infinity() {
    for number in ["65520", "-65520", "1e5", "4e38", "1e999", "0x1p16"] {
        let error = parsed::<f16>(&format!("[{number}]")).expect_err("too large");
        assert_eq!(
            error.to_string(),
            format!("\"{number}\" is out of range for type halfvec")
        );
    }
    for number in ["inf", "-Infinity", "+INF"] {
        let error = parsed::<f16>(&format!("[{number}]")).expect_err("infinite");
        assert_eq!(error.to_string(), "infinite value not allowed in halfvec");
        let error = parsed::<f32>(&format!("[{number}]")).expect_err("infinite");
        assert_eq!(error.to_string(), "infinite value not allowed in vector");
    }
    assert!(parsed::<f32>("[65520,4e37]").is_ok());
}

#[test]
fn of_two_mistakes_the_first_counts() {
    let nan_then_short = [&[0, 2, 0, 0][..], &f16::NAN.to_be_bytes()].concat();
    let error = received::<f16>(&nan_then_short).expect_err("NaN");
    assert_eq!(error.to_string(), "NaN not allowed in halfvec");
    assert_eq!(
        received::<f16>(&[0, 2, 0, 7]),
        Err(InputError::Unused(7)),
        "before it is cut short"
    );
    assert_eq!(
        received::<f16>(&[0, 0, 0, 7]),
        Err(InputError::NoDimension(VectorType::Halfvec))
    );
    assert_eq!(
        received::<f32>(&[0x80, 0, 0, 0]),
        Err(InputError::NoDimension(VectorType::Vector))
    );
    assert_eq!(
        received::<f32>(&[0x3E, 0x81, 0, 0]),
        Err(InputError::TooManyDimensions(VectorType::Vector))
    );
}
