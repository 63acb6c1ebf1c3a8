//! The fuzzers' targets on random and on mutated valid input, for a bounded time: OMEN_FUZZ_SECONDS of them all together, 20 if not set.

#[path = "fuzz/watch.rs"]
mod watch;

use omen_gpu::NearSlot;
use omen_gpu::params::Found;
use omen_ivf::list_reader::AppendedTo;
use omen_service::load::LoadRegion;
use omen_service::message::{Answer, ChosenList, OfQuery, Request, StaleList};
use omen_tests::fuzz::{messages, pages, sparse, vectors};
use omen_tests::rng;
use omen_vector::{Element, dense, f16};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngCore};
use rand_chacha::ChaCha8Rng;
use watch::Rounds;

/// Bytes that may be the smallest, the largest, or anything.
fn random_bytes(rng: &mut ChaCha8Rng, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// Changes some bytes, cuts, repeats or inserts.
fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, alphabet: &[u8]) {
    for _ in 0..rng.random_range(0..5) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, *alphabet.choose(rng).expect("not empty")),
            2 if at < bytes.len() => bytes[at] = *alphabet.choose(rng).expect("not empty"),
            3 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            4 if at < bytes.len() => drop(bytes.remove(at)),
            5 => bytes.extend_from_within(at..),
            _ => {}
        }
    }
}

/// A vector with numbers of every size.
fn coordinates(rng: &mut ChaCha8Rng) -> Vec<f32> {
    let number = |rng: &mut ChaCha8Rng| loop {
        let x = match rng.random_range(0..4) {
            0 => rng.random_range(-9i8..9).into(),
            1 => rng.random(),
            _ => f32::from_bits(rng.random()),
        };
        if x.is_finite() {
            return x;
        }
    };
    let n = match rng.random_range(0..100) {
        0 => 16_000 + rng.random_range(0..2),
        1..20 => 1,
        _ => rng.random_range(2..50),
    };
    (0..n).map(|_| number(rng)).collect()
}

/// Characters that a literal may hold, and some that it may not.
const ALPHABET: &[u8] = b"[]{}:/,.0123456789+-eExXpPaAfFnNiIty \t\n\x0b\xff\xc3\xa4\"";
/// Numbers that are not plain.
const NUMBERS: [&str; 12] = [
    "0x1p3", "1e39", "-inf", "nan(1)", "1e-50", "Infinity", "0x", "+.5", "1_0", "65519", "65520",
    "0x0p9",
];

/// Mutated: noise, a value with a number that is not plain (`around` it), or the text of a value.
fn literal(
    rng: &mut ChaCha8Rng,
    around: (&str, &str),
    of_value: impl FnOnce(&mut ChaCha8Rng) -> String,
) -> Vec<u8> {
    let mut text = match rng.random_range(0..8) {
        0 => {
            let n = rng.random_range(0..60);
            (0..n)
                .map(|_| *ALPHABET.choose(rng).expect("some"))
                .collect()
        }
        1 => [around.0, NUMBERS.choose(rng).expect("some"), around.1]
            .concat()
            .into_bytes(),
        2 => {
            let n = rng.random_range(0..200);
            random_bytes(rng, n)
        }
        _ => of_value(rng).into_bytes(),
    };
    mutate(rng, &mut text, ALPHABET);
    text
}

/// Mutated: noise, or a value's message.
fn message(rng: &mut ChaCha8Rng, of_value: impl FnOnce(&mut ChaCha8Rng) -> Vec<u8>) -> Vec<u8> {
    let mut message = if rng.random_bool(0.1) {
        let n = rng.random_range(0..80);
        random_bytes(rng, n)
    } else {
        of_value(rng)
    };
    mutate(rng, &mut message, &[0, 1, 0x3E, 0x7C, 0x7F, 0x80, 0xFF]);
    message
}

/// As [`coordinates`], rounded; those beyond the range are left out.
fn values<E: Element>(rng: &mut ChaCha8Rng) -> Vec<E> {
    let mut x: Vec<E> = coordinates(rng).into_iter().map(E::from_f32).collect();
    x.retain(|x| x.is_finite());
    if x.is_empty() {
        x.push(E::ZERO);
    }
    x
}

/// Dimension and elements of a sparse vector.
fn elements(rng: &mut ChaCha8Rng) -> (usize, Vec<(i32, f32)>) {
    let x = coordinates(rng)
        .into_iter()
        .filter(|&x| x != 0.0)
        .take(16_000);
    let step = if rng.random_bool(0.5) { 1 } else { 60_000 };
    let mut index = -1;
    let elements: Vec<_> = x
        .map(|x| {
            index += rng.random_range(1..=step);
            (index, x)
        })
        .collect();
    ((index + 1).max(1) as usize, elements)
}

fn dense_text<E: Element>(what: &'static str) {
    let mut rng = rng();
    let mut rounds = Rounds::new(what, 0.06);
    while rounds.goes_on() {
        let text = literal(&mut rng, ("[1,", ",2]"), |rng| {
            vectors::written(&values::<E>(rng))
        });
        rounds.count(vectors::text::<E>(&text));
    }
    rounds.end(0.05..0.95);
}

fn dense_binary<E: Element>(what: &'static str) {
    let mut rng = rng();
    let mut rounds = Rounds::new(what, 0.06);
    while rounds.goes_on() {
        let message = message(&mut rng, |rng| {
            let x = values::<E>(rng);
            let mut message = vec![0; dense::binary_bytes::<E>(x.len())];
            dense::put_binary(0, &x, &mut message);
            message
        });
        rounds.count(vectors::binary::<E>(&message));
    }
    rounds.end(0.05..0.95);
}

#[test]
fn text_of_vectors() {
    dense_text::<f32>("text input of vectors");
}

#[test]
fn binary_form_of_vectors() {
    dense_binary::<f32>("binary input of vectors");
}

#[test]
fn text_of_halfvecs() {
    dense_text::<f16>("text input of halfvecs");
}

#[test]
fn binary_form_of_halfvecs() {
    dense_binary::<f16>("binary input of halfvecs");
}

#[test]
fn text_of_sparsevecs() {
    let mut rng = rng();
    let mut rounds = Rounds::new("text input of sparsevecs", 0.06);
    while rounds.goes_on() {
        let text = literal(&mut rng, ("{3:", ",1:2}/5"), |rng| {
            let (dim, mut elements) = elements(rng);
            if rng.random_bool(0.3) {
                elements.shuffle(rng);
            }
            sparse::written(dim, &elements)
        });
        rounds.count(sparse::text(&text));
    }
    rounds.end(0.05..0.95);
}

#[test]
fn binary_form_of_sparsevecs() {
    let mut rng = rng();
    let mut rounds = Rounds::new("binary input of sparsevecs", 0.06);
    while rounds.goes_on() {
        let message = message(&mut rng, |rng| {
            let (dim, elements) = elements(rng);
            let (indices, x): (Vec<i32>, Vec<f32>) = elements.into_iter().unzip();
            let mut message = vec![0; omen_vector::sparse::binary_bytes(x.len())];
            omen_vector::sparse::put_binary(dim as i32, 0, &indices, &x, &mut message);
            message
        });
        rounds.count(sparse::binary(&message));
    }
    rounds.end(0.05..0.95);
}

/// A request that is one.
fn request(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let (n_queries, dim) = (rng.random_range(0..5), rng.random_range(0..40));
    let request = Request {
        k: 10,
        n_queries,
        words: dim,
        ..Request::default()
    };
    let stale = vec![StaleList::default(); rng.random_range(0..5)];
    let lists: Vec<u32> = (0..rng.random_range(0..9)).collect();
    let mut payload = vec![0u64; messages::MOST_BYTES / 8];
    let payload: &mut [u8] = bytemuck::cast_slice_mut(&mut payload);
    let n = request.encode(&stale, &lists, payload, |x, _| x.fill(0.5));
    payload[..n.expect("there is room")].to_vec()
}

/// An answer that is one.
fn answer(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let lists: Vec<ChosenList> = (0..rng.random_range(1..9))
        .map(|list| ChosenList {
            list,
            layout_gen: 1,
            delete_gen: 0,
            n_live: 0,
            n_slots: rng.random_range(0..9),
            first_slot: 10 * list,
            appended: AppendedTo::NOTHING,
        })
        .collect();
    let (n_queries, n_found) = (rng.random_range(0..4), rng.random_range(0..9));
    let names_slots = rng.random_bool(0.5);
    let n_places = if n_queries > 1 { 2 } else { OfQuery::ALL };
    let query = OfQuery {
        n_found: n_found as u32,
        frontier: 1.0,
        overflow: 0,
        n_places,
    };
    let queries = vec![query; n_queries];
    let places = vec![0; if n_queries > 1 { 2 * n_queries } else { 0 }];
    let head = Answer {
        names_slots: names_slots.into(),
        ..Answer::default()
    };
    let mut payload = vec![0u64; messages::MOST_BYTES / 8];
    let payload: &mut [u8] = bytemuck::cast_slice_mut(&mut payload);
    let n = if names_slots {
        let slot = |slot| NearSlot { slot, bound: 0.5 };
        let named: Vec<NearSlot> = (0..n_found as u32).map(slot).collect();
        head.encode(
            &queries,
            &vec![&named[..]; n_queries],
            &lists,
            &places,
            payload,
        )
    } else {
        let found = vec![Found::default(); n_found];
        head.encode(
            &queries,
            &vec![&found[..]; n_queries],
            &lists,
            &places,
            payload,
        )
    };
    payload[..n.expect("there is room")].to_vec()
}

/// Mutates a message, small numbers more often than others; before it the byte that says where it lies.
fn spoilt(rng: &mut ChaCha8Rng, mut message: Vec<u8>) -> Vec<u8> {
    mutate(rng, &mut message, &[0, 1, 2, 7, 0x7F, 0xFF]);
    for _ in 0..rng.random_range(0..3) {
        let n_words = message.len().min(160) / 4;
        if n_words > 0 {
            let at = 4 * rng.random_range(0..n_words);
            let value = [0, 1, 30, 1 << 30, u32::MAX, rng.random()][rng.random_range(0..6)];
            message[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    message.insert(0, rng.random());
    message
}

#[test]
fn messages_of_the_service() {
    let mut rng = rng();
    let mut requests = Rounds::new("requests to the service", 0.05);
    while requests.goes_on() {
        let message = request(&mut rng);
        let message = spoilt(&mut rng, message);
        requests.count(messages::request(&message));
    }
    requests.end(0.05..0.95);
    let mut answers = Rounds::new("answers of the service", 0.05);
    while answers.goes_on() {
        let message = answer(&mut rng);
        let message = spoilt(&mut rng, message);
        answers.count(messages::answer(&message));
    }
    answers.end(0.05..0.95);
}

#[test]
fn regions_for_loading() {
    let mut rng = rng();
    let mut rounds = Rounds::new("regions through which tiers are loaded", 0.05);
    let bytes = LoadRegion::bytes(2, 1 << 20);
    let mut memory = vec![[0u64; 8]; bytes.div_ceil(64) + 1];
    let start = memory.as_mut_ptr().cast::<u8>();
    let start = start.wrapping_add(start.align_offset(64));
    #[allow(unsafe_code)]
    // SAFETY: so many bytes, and 64 for the alignment, are the vector's, which outlives the region and is used by nothing else meanwhile.
    let valid = unsafe {
        LoadRegion::create(start, 2, 1 << 20).expect("aligned");
        std::slice::from_raw_parts(start, 512).to_vec()
    };
    while rounds.goes_on() {
        let mut header = valid.clone();
        for _ in 0..rng.random_range(0..3) {
            let at = 8 * rng.random_range(0..8);
            let value = [0, 1, 3, 1 << 20, 1 << 40, u64::MAX, rng.random()][rng.random_range(0..7)];
            header[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        rounds.count(messages::region(&header));
    }
    rounds.end(0.05..0.95);
}

#[test]
fn damaged_pages() {
    let mut rng = rng();
    assert_eq!(pages::kinds(), pages::KINDS, "each kind of page is damaged");
    let mut rounds = Rounds::new("damaged indexes", 0.49);
    let mut total = pages::Outcome::default();
    while rounds.goes_on() {
        let n = rng.random_range(24..400);
        let input = random_bytes(&mut rng, n);
        let outcome = rounds.watched(&input, || pages::damaged(&input));
        assert!(outcome.reads < 2_000_000, "{outcome:?}");
        rounds.count(outcome.noticed > 0);
        total.damages += outcome.damages;
        total.calls += outcome.calls;
        total.noticed += outcome.noticed;
        total.reads += outcome.reads;
    }
    println!("{total:?}");
    rounds.end(0.2..0.98);
}
