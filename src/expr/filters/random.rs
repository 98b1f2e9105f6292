//! `random` and `shuffle` with a seed: Python's Mersenne Twister, so that a host keeps its number.

use sha2::Digest;
use sha2::Sha512;

use super::Args;
use super::Parts;
use super::Row;
use super::items;
use crate::expr::emit;
use crate::expr::error::EvalError;
use crate::expr::runtime::Evaluated;
use crate::expr::value::Data;
use crate::expr::value::Value;
use crate::expr::world::World;

pub(super) const ROWS: &[Row] = &[
    Row("random", Parts::Passed, random),
    Row("shuffle", Parts::Passed, |_, input, args| {
        let mut twister = seeded(args)?;
        let mut list = items(&input)?;
        for at in (1..list.len()).rev() {
            list.swap(at, usize::try_from(twister.below(at as u64 + 1)).unwrap_or(0));
        }
        Ok(list.into())
    }),
];

fn random(_: &World, input: Value, args: &mut Args) -> Evaluated<Value> {
    let (start, step) = (args.int("start")?.unwrap_or(0), args.int("step")?.unwrap_or(1));
    let mut twister = seeded(args)?;
    if let Data::Int(end) = input.data {
        let width = end.saturating_sub(start);
        if width <= 0 || step <= 0 {
            return Err(EvalError::value(format!("there is no number from {start} to {end}")).into());
        }
        let steps = (width + step - 1) / step;
        let picked = i64::try_from(twister.below(steps.unsigned_abs())).unwrap_or(0);
        return Ok(Value::from(start + step * picked));
    }
    let list = items(&input)?;
    if list.is_empty() {
        return Ok(Value::undefined("there is no random item, the list is empty"));
    }
    let at = usize::try_from(twister.below(list.len() as u64)).unwrap_or(0);
    Ok(list.get(at).cloned().unwrap_or_default())
}

fn seeded(args: &mut Args) -> Result<Twister, EvalError> {
    let seed = args.next("seed").filter(|v| !v.is_none());
    let seed = seed.ok_or_else(|| {
        EvalError::value("a random choice would differ between plan and apply")
            .hint("give it a seed, e.g. `random(seed=inventory_hostname)`")
    })?;
    Ok(match seed.data {
        Data::Int(number) => Twister::new(&number.unsigned_abs().to_be_bytes()),
        _ => {
            let text = emit::to_text(&seed);
            let mut bytes = text.as_bytes().to_vec();
            bytes.extend(Sha512::digest(&text));
            Twister::new(&bytes)
        }
    })
}

const SIZE: usize = 624;

/// MT19937, seeded as Python's `random.seed` does.
struct Twister {
    state: [u32; SIZE],
    at: usize,
}

impl Twister {
    /// Seeds with a big-endian number of any size.
    fn new(number: &[u8]) -> Twister {
        let skipped: Vec<u8> = number.iter().copied().skip_while(|b| *b == 0).collect();
        let mut key: Vec<u32> =
            skipped.rchunks(4).map(|word| word.iter().fold(0, |n, byte| n << 8 | u32::from(*byte))).collect();
        if key.is_empty() {
            key.push(0);
        }
        let mut state = [0_u32; SIZE];
        let mut last = 19_650_218_u32;
        for (at, word) in state.iter_mut().enumerate() {
            if at > 0 {
                last = 1_812_433_253_u32.wrapping_mul(last ^ last >> 30).wrapping_add(at as u32);
            }
            *word = last;
        }
        let (mut i, mut j) = (1, 0);
        for _ in 0..SIZE.max(key.len()) {
            let before = state[i - 1];
            state[i] = (state[i] ^ (before ^ before >> 30).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            i += 1;
            j = (j + 1) % key.len();
            if i >= SIZE {
                state[0] = state[SIZE - 1];
                i = 1;
            }
        }
        for _ in 0..SIZE - 1 {
            let before = state[i - 1];
            state[i] =
                (state[i] ^ (before ^ before >> 30).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i += 1;
            if i >= SIZE {
                state[0] = state[SIZE - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Twister { state, at: SIZE }
    }

    fn word(&mut self) -> u32 {
        if self.at >= SIZE {
            for k in 0..SIZE {
                let y = self.state[k] & 0x8000_0000 | self.state[(k + 1) % SIZE] & 0x7fff_ffff;
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[k] = self.state[(k + 397) % SIZE] ^ y >> 1 ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// Returns a number below `limit`, which is not zero.
    fn below(&mut self, limit: u64) -> u64 {
        let bits = u64::BITS - limit.leading_zeros();
        loop {
            let drawn = if bits <= 32 {
                u64::from(self.word() >> (32 - bits.max(1)))
            } else {
                let low = u64::from(self.word());
                low | u64::from(self.word() >> (64 - bits)) << 32
            };
            if drawn < limit {
                return drawn;
            }
        }
    }
}
