//! P-256 without ring's table of 150 KiB: multiples of the base point are computed as those of any other point. A release links these two
//! functions in place of ring's (`--wrap` in cross/targets.toml), and the linker then leaves the table out; other builds link ring's own.
//!
//! Both answer what ring's answer. They take as long as a multiplication of a peer's point, which is constant-time too, and which each handshake
//! does anyhow.

/// One of the four words of a number of 256 bits, lowest first; numbers modulo p are in Montgomery's form.
type Limb = u64;

/// The base point (SEC 2, 2.4.2) times 2^256 modulo p, as ring keeps it.
const BASE: [[Limb; 4]; 2] = [
    [0x79e7_30d4_18a9_143c, 0x75ba_95fc_5fed_b601, 0x79fb_732b_7762_2510, 0x1890_5f76_a537_55c6],
    [0xddf2_5357_ce95_560a, 0x8b4a_b8e4_ba19_e45c, 0xd2e8_8688_dd21_f325, 0x8571_ff18_2588_5d85],
];

// SAFETY: as crypto/fipsmodule/ec/p256-nistz.c of ring 0.17.14 declares it; another version has another name, and does not link.
unsafe extern "C" {
    /// `r`: X, Y and Z of the product (Jacobian).
    #[link_name = "ring_core_0_17_14__p256_point_mul"]
    fn point_mul(r: *mut Limb, scalar: *const Limb, x: *const Limb, y: *const Limb);
}

/// The base point times `scalar`.
///
/// # Safety
/// `r` has room for twelve limbs, `scalar` has four.
#[unsafe(export_name = "__wrap_ring_core_0_17_14__p256_point_mul_base")]
unsafe extern "C" fn point_mul_base(r: *mut Limb, scalar: *const Limb) {
    // SAFETY: the caller's promise, and two numbers of four limbs.
    unsafe { point_mul(r, scalar, BASE[0].as_ptr(), BASE[1].as_ptr()) }
}

/// The same where ring does not mind how long it takes, for a signature's check.
///
/// # Safety
/// `r` has room for twelve limbs, `scalar` has four.
#[unsafe(export_name = "__wrap_ring_core_0_17_14__p256_point_mul_base_vartime")]
unsafe extern "C" fn point_mul_base_vartime(r: *mut Limb, scalar: *const Limb) {
    // SAFETY: the caller's promise.
    unsafe { point_mul_base(r, scalar) }
}

#[cfg(test)]
mod tests {
    use super::{Limb, point_mul_base, point_mul_base_vartime};

    // SAFETY: as in ring 0.17.14, from its table; nothing is wrapped where tests are linked.
    unsafe extern "C" {
        #[link_name = "ring_core_0_17_14__p256_point_mul_base"]
        fn with_table(r: *mut Limb, scalar: *const Limb);
        #[link_name = "ring_core_0_17_14__p256_point_mul_base_vartime"]
        fn with_table_vartime(r: *mut Limb, scalar: *const Limb);
        #[link_name = "ring_core_0_17_14__p256_mul_mont"]
        fn mul_mont(r: *mut Limb, a: *const Limb, b: *const Limb);
    }

    type Function = unsafe extern "C" fn(*mut Limb, *const Limb);

    fn mul(a: &[Limb], b: &[Limb]) -> [Limb; 4] {
        let mut r = [0; 4];
        // SAFETY: three numbers of four limbs.
        unsafe { mul_mont(r.as_mut_ptr(), a[..4].as_ptr(), b[..4].as_ptr()) };
        r
    }

    fn times_base(function: Function, scalar: &[Limb; 4]) -> [Limb; 12] {
        let mut r = [0; 12];
        // SAFETY: room for twelve limbs, and four.
        unsafe { function(r.as_mut_ptr(), scalar.as_ptr()) };
        r
    }

    /// Whether two Jacobian points are one: X and Y over the second and third power of Z.
    fn same(a: &[Limb; 12], b: &[Limb; 12]) -> bool {
        let ([a_x, a_y, a_z], [b_x, b_y, b_z]) = ([&a[..4], &a[4..8], &a[8..]], [&b[..4], &b[4..8], &b[8..]]);
        let (a_zz, b_zz) = (mul(a_z, a_z), mul(b_z, b_z));
        let infinite = (a_z == [0; 4], b_z == [0; 4]);
        infinite == (true, true)
            || infinite == (false, false) && mul(a_x, &b_zz) == mul(b_x, &a_zz) && mul(a_y, &mul(&b_zz, b_z)) == mul(b_y, &mul(&a_zz, a_z))
    }

    /// Zero, small, around the windows of both ways, around the group's order, and whatever comes of squaring.
    fn scalars() -> Vec<[Limb; 4]> {
        let order = [0xf3b9_cac2_fc63_2551, 0xbce6_faad_a717_9e84, u64::MAX, 0xffff_ffff_0000_0000];
        let less = |n| [order[0] - n, order[1], order[2], order[3]];
        let mut out: Vec<[Limb; 4]> = (0..300).map(|n| [n, 0, 0, 0]).chain((1..40).map(less)).collect();
        out.extend((0..256).map(|bit| std::array::from_fn(|n| if bit / 64 == n { 1 << (bit % 64) } else { 0 })));
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ (state >> 29)
        };
        out.extend((0..2_000).map(|_| [next(), next(), next(), next() >> 1]));
        out
    }

    #[test]
    fn the_base_point_is_multiplied_as_by_the_table() {
        for scalar in scalars() {
            let table = times_base(with_table, &scalar);
            assert!(same(&table, &times_base(point_mul_base, &scalar)), "{scalar:x?}");
            assert!(same(&table, &times_base(point_mul_base_vartime, &scalar)), "{scalar:x?}");
            assert!(same(&table, &times_base(with_table_vartime, &scalar)), "{scalar:x?}");
        }
    }

    #[test]
    fn points_that_differ_are_told_apart() {
        let [one, two, zero] = [[1, 0, 0, 0], [2, 0, 0, 0], [0; 4]].map(|scalar| times_base(with_table, &scalar));
        assert!(!same(&one, &two) && !same(&one, &zero) && same(&zero, &zero));
    }
}
