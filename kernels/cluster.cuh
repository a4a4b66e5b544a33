// Collectives of the CTAs of a cluster, over distributed shared memory: sums and maxima of vectors, concatenation, and merging of partial
// softmax results. Their order is that of ranks (or of parts), whatever arrives first: the same bits in every CTA and every time.
//
// They are for a role: some whole warps of a CTA, the same in every CTA of the cluster, while its other warps do something else. So
// nothing here waits for a whole CTA but cluster_enter() and cluster_leave(), at the two ends of a kernel. A CTA may have several roles, each with
// an area of its own. All CTAs' roles run the same collectives, with the same sizes, in the same order.
//
// How a collective works. Each CTA has a receive buffer with a slot for every other one. A CTA stores what a peer needs straight into its slot
// in that peer's buffer (st.async); every store completes its bytes on the peer's barrier. The peer has told its barrier how many
// bytes to expect, waits for them once, and combines the slots in order of ranks: one trip, no acknowledgement, no barrier of the cluster.
// The completion of the bytes releases, and the wait acquires, at the scope of the cluster, so no fence is needed; and none between proxies, since
// all accesses to the buffers are of the generic one. (Bulk copies from shared memory would need one, and would keep the source busy until
// the peer has it.) Bytes may come before the peer expects them: the phase of its barrier does not end
// without its own arrival, and until then the count of bytes may be below zero.
//
// Why two buffers, for even and odd collectives, suffice. In every collective every CTA sends every other at least one quad, if need be an
// empty one. Let CTA A store into buffer k & 1 of CTA B for collective k + 2. A has then finished k + 1, so it has received B's bytes of k + 1. B's
// threads sent those after they had met at the beginning of k + 1, and they met after all had read what they wanted of collective k. So
// nobody reads the buffer any more. Likewise for the barriers: B's barrier has ended its phase of k, since B waited for that, so A's bytes
// count for its phase of k + 2; and that cannot end, and the parity with it turn again, before B arrives, which it does after all its
// threads have seen the end of the phase of k.
//
// The end. A CTA that has finished its last collective has received all that was ever sent to it; but one that gave up has not, and
// a store into a CTA that has ended is a fault. So all threads of all CTAs end with
// cluster_leave().
#pragma once

#include "contract.h"
#include "ptx.cuh"

namespace cf::gpu {

// Vectors lie on 16 bytes and travel in quads of four floats: what is read or written has room up to the end of its last quad, and what lies
// behind its end is neither looked at nor kept. Shares of a vector begin on quads; the last ones may be shorter or empty.
CF_BOTH constexpr int cluster_quads(int n) { return (n + 3) / 4; }
CF_BOTH constexpr int share_floats(int n, int size) { return 4 * ((cluster_quads(n) + size - 1) / size); }  // of all CTAs but the last
CF_BOTH constexpr int share_begin(int n, int size, int rank) {
  const int begin = rank * share_floats(n, size);
  return begin < n ? begin : n;
}
CF_BOTH constexpr int share_length(int n, int size, int rank) { return share_begin(n, size, rank + 1) - share_begin(n, size, rank); }

// A partial result of attention over some positions: maximum, denominator, two floats of padding, `values` sums relative to exp(maximum).
CF_BOTH constexpr int partial_floats(int values) { return 4 + 4 * cluster_quads(values); }

// Floats of a receive buffer (there are two) that a collective needs. `slot`: n of all_reduce_in_one and gather (of the longest segment),
// all_reduce_slot() of all_reduce, share_floats() of reduce_scatter and all_reduce_in_two, the most parts of a CTA times
// partial_floats(n_values) of merge, and times partial_floats(share_floats(n_values, size)) of merge<true>.
CF_BOTH constexpr int receive_floats(int slot, int size) { return (size - 1) * 4 * (slot > 0 ? cluster_quads(slot) : 1); }
// all_reduce goes in one trip while every CTA sends its peers no more than this, and in two otherwise: a share to each, then its sum to all.
constexpr int kOneTripFloats = 8192;
CF_BOTH constexpr bool in_one_trip(int n, int size) { return (size - 1) * n <= kOneTripFloats; }
CF_BOTH constexpr int all_reduce_slot(int n, int size) { return in_one_trip(n, size) ? n : share_floats(n, size); }

// In shared memory, at the same address in all CTAs of the cluster.
struct ClusterBarriers {
  uint64_t full[2];
};

struct ClusterSum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct ClusterMax {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// All threads of the kernel, at its beginning and before it ends; nothing without clusters.
__device__ inline void cluster_enter(ClusterBarriers* barriers, int n, int thread) {
#if __CUDA_ARCH__ >= 900
  if (thread == 0) {
    for (int i = 0; i < n; i++) ptx::barrier_init(&barriers[i].full[0], 1), ptx::barrier_init(&barriers[i].full[1], 1);
    ptx::fence_barrier_init_cluster();
  }
  ptx::cluster_sync();
#endif
}
__device__ inline void cluster_meet() {
#if __CUDA_ARCH__ >= 900
  ptx::cluster_sync();
#endif
}
__device__ inline void cluster_leave() { cluster_meet(); }

// A gathering to one CTA for which only that one waits: the others put in what they have and go on. All CTAs know what is put where. The
// collectives above see to it by themselves, here the caller has to prove it: nobody puts in anything for the next gathering before all
// threads of the CTA that gets it have used this one's. All threads of the kernel meet (cluster_meet) between init() and the first put(),
// which is an illegal instruction in a launch without clusters.
struct ClusterInbox {
  uint64_t* full;  // in shared memory, at the same address in all CTAs

  __device__ void init() const {  // one thread
#if __CUDA_ARCH__ >= 900
    ptx::barrier_init(full, 1);
    ptx::fence_barrier_init_cluster();
#endif
  }
  // To the same place, on 16 bytes, in the CTA `rank`.
  __device__ void put(float* place, float4 quad, int rank) const {
#if __CUDA_ARCH__ >= 900
    const uint4 bits = {__float_as_uint(quad.x), __float_as_uint(quad.y), __float_as_uint(quad.z), __float_as_uint(quad.w)};
    ptx::store_async(ptx::address_in_cta(ptx::shared_address(place), rank), bits, ptx::address_in_cta(ptx::shared_address(full), rank));
#endif
  }
  // One thread of the CTA that gets `bytes` bytes says so once; each that uses them waits. `number`: of the CTA's gathering, from 0.
  __device__ void expect(int bytes) const {
#if __CUDA_ARCH__ >= 900
    ptx::barrier_expect(full, static_cast<uint32_t>(bytes));
#endif
  }
  template <class GiveUp>
  __device__ bool wait(uint32_t number, GiveUp give_up) const {
#if __CUDA_ARCH__ >= 900
    for (uint32_t tries = 1; !ptx::barrier_passed_cluster(full, number & 1); tries++)
      if (tries % 64 == 0 && give_up()) return false;
#endif
    return true;
  }
};

// A thread's end of its role. kSize: CTAs of the cluster, a power of two, if it is known; 0: as launched; 1: local work alone is left.
//
// Every collective is called by all threads of the role; what it reads any of them may have written before, and what it writes any may read
// after. Unless said otherwise, inputs and outputs are in shared memory, on 16 bytes, do not overlap, and are free when it returns.
//
// give_up() is asked now and then by threads that wait. Once it is true the collective ends, false in all threads of the role; its output means
// nothing, and all later ones are false at once. Peers that need this CTA's data give up by themselves.
template <class GiveUp, int kSize = 0>
class ClusterRole {
 public:
  // `thread` of `threads`, whole warps, which meet at named barrier `barrier`. `receive`: two buffers of `buffer_floats` floats, a multiple of 4,
  // at the same address in all CTAs.
  __device__ ClusterRole(int thread, int threads, int barrier, ClusterBarriers* barriers, float* receive, int buffer_floats, GiveUp give_up)
      : thread_(thread),
        threads_(threads),
        barrier_(barrier),
        barriers_(barriers),
        receive_(receive),
        buffer_floats_(buffer_floats),
        give_up_(give_up) {
#if __CUDA_ARCH__ >= 900
    if (kSize != 1) rank_ = ptx::cluster_rank(), size_ = ptx::cluster_size();
#endif
    // Warps share the peers that they send to; where there are more warps than peers, several share a peer's quads.
    const int warp = thread / kWarpLanes, warps = threads / kWarpLanes, peers = size() - 1;
    if (peers >= warps) first_peer_ = warp;
    else if (peers > 0) ways_ = warps / peers, way_ = warp / peers < ways_ ? warp / peers : kIdle, first_peer_ = warp % peers;
  }

  __device__ int rank() const { return kSize == 1 ? 0 : rank_; }
  __device__ int size() const {
#if __CUDA_ARCH__ >= 900
    return kSize ? kSize : size_;
#else
    return 1;
#endif
  }
  __device__ bool failed() const { return failed_; }
  // share_floats() and its like for this cluster, without a division.
  __device__ int share(int n) const { return 4 * ((cluster_quads(n) + size() - 1) >> log_size()); }
  __device__ int begin_of(int n, int rank) const { return min(rank * share(n), n); }
  __device__ int length_of(int n, int rank) const { return begin_of(n, rank + 1) - begin_of(n, rank); }

  // out[i] = op over the ranks, in order, of values[i].
  template <class Op>
  __device__ bool all_reduce(const float* values, int n, float* out, Op op) {
    if (in_one_trip(n, size())) return all_reduce_in_one(values, n, out, op);
    return all_reduce_in_two(values, n, out, op);
  }
  // One trip; n floats to every peer.
  template <class Op>
  __device__ bool all_reduce_in_one(const float* values, int n, float* out, Op op) {
    begin((size() - 1) * message_bytes(n));
    send(4 * cluster_quads(n), Span{values, n});
    const bool came = wait();
    if (came) reduce(values, 0, n, 4 * cluster_quads(n), out, op);
    return end(came);
  }
  // Two trips; twice a share to every peer.
  template <class Op>
  __device__ bool all_reduce_in_two(const float* values, int n, float* out, Op op) {
    if (!reduce_scatter(values, n, out, op)) return false;
    return gather(
        out + begin_of(n, rank()), [this, n](int of) { return length_of(n, of); }, out);
  }
  // The same for this CTA's share alone, at out + share_begin(n, size, rank).
  template <class Op>
  __device__ bool reduce_scatter(const float* values, int n, float* out, Op op) {
    const int slot = share(n), first = begin_of(n, rank()), mine = length_of(n, rank());
    begin((size() - 1) * message_bytes(mine));
    send(slot, Shares{*this, values, n});
    const bool came = wait();
    if (came) reduce(values, first, mine, slot, out, op);
    return end(came);
  }

  // The CTAs' values, length_of(rank) words of 4 bytes each, one after the other in order of ranks. `out` needs no alignment; `values` may be
  // this CTA's place in it. `root`: the only CTA that gets them, or kAll.
  static constexpr int kAll = -1;
  template <class T, class LengthOf>
  __device__ bool gather(const T* values, LengthOf length_of, T* out, int root = kAll) {
    static_assert(sizeof(T) == sizeof(uint32_t));
    const int lane = thread_ % kWarpLanes, of_lane = lane < size() ? length_of(lane) : 0;
    const int slot = 4 * max(1, cluster_quads(warp_most(of_lane)));
    const int bytes = warp_total(lane < size() && lane != rank() ? message_bytes(is_root(root) ? of_lane : 0) : 0);
    begin(bytes);
    send(slot, Rooted{values, length_of(rank()), root});
    const bool came = wait();
    if (came && is_root(root)) {
      int end_of_lane = of_lane;
      for (int lanes = 1; lanes < size(); lanes *= 2) {
        const int before = __shfl_up_sync(0xffffffffu, end_of_lane, lanes);
        if (lane >= lanes) end_of_lane += before;
      }
      // Warps share the segments; where there are more warps than segments, several share a segment's words.
      const int warp = thread_ / kWarpLanes, warps = threads_ / kWarpLanes, ways = max(warps >> log_size(), 1);
      const int way = warps > size() ? warp >> log_size() : 0, turn = warps > size() ? warp & (size() - 1) : warp;
      for (int from = way < ways ? turn : size(); from < size(); from += warps) {
        const int length = __shfl_sync(0xffffffffu, of_lane, from);
        T* const to = out + __shfl_sync(0xffffffffu, end_of_lane, from) - length;
        const T* const source = from == rank() ? values : reinterpret_cast<const T*>(slot_of(from, slot));
        if (source == to) continue;
#pragma unroll 4
        for (int i = way * kWarpLanes + lane; i < length; i += ways * kWarpLanes) to[i] = source[i];
      }
    }
    return end(came);
  }

  // Partial results of softmax, parts_of(rank) of each CTA, merged in order of ranks and, within one, of their places: so the bits are
  // those of any other cluster that has the same parts in the same order. `partials` and `out` as partial_floats() says; weight(max, common) is
  // exp(max - common), 0 where max is -infinity. kShare: only this CTA's share of the values, share_begin(n_values, size, rank) ..., is
  // merged, and written in its place in `out`. The padding of `partials` is used.
  template <bool kShare = false, class PartsOf, class Weight>
  __device__ bool merge(float* partials, PartsOf parts_of, int n_values, float* out, Weight weight) {
    const int stride = partial_floats(n_values);
    const int first = kShare ? begin_of(n_values, rank()) : 0, mine = kShare ? length_of(n_values, rank()) : n_values;
    const int lane = thread_ % kWarpLanes, of_lane = lane < size() ? parts_of(lane) : 0;
    const int most = warp_most(of_lane), parts = warp_total(of_lane);
    const int others = warp_total(lane < size() && lane != rank() ? message_bytes(of_lane * partial_floats(mine)) : 0);
    const int slot = max(4, most * partial_floats(kShare ? share(n_values) : n_values));
    begin(others);
    send(slot, Partials<kShare>{*this, partials, parts_of(rank()), stride, n_values});
    bool came = wait();
    // Parts as they lie here: a CTA's own ones have all values, those of others begin with the share.
    const auto parts_from = [&](int from) { return from == rank() ? partials : const_cast<float*>(slot_of(from, slot)); };
    const auto stride_from = [&](int from) { return from == rank() ? stride : partial_floats(mine); };
    float common = -INFINITY;
    if (came) {
      const auto part_at = [&](int i) {
        int from = 0;
        for (; i >= parts_of(from); from++) i -= parts_of(from);
        return parts_from(from) + i * stride_from(from);
      };
      for (int i = lane; i < parts; i += kWarpLanes) common = fmaxf(common, part_at(i)[0]);
      for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) common = fmaxf(common, __shfl_xor_sync(0xffffffffu, common, lanes));
      for (int i = thread_; i < parts; i += threads_) {
        float* const part = part_at(i);  // another warp may still be sending its quad: nobody looks at what it finds here
        part[2] = weight(part[0], common);
      }
    }
    came = !ptx::sync_any(barrier_, threads_, !came);
    if (came) {
      for (int d = thread_; d == thread_ || d < mine; d += threads_) {
        float denominator = 0, value = 0;
        for (int from = 0; from < size(); from++) {
          const int n = parts_of(from), of_part = stride_from(from);
          const float* const part = parts_from(from);
          const float* const values = part + 4 + (from == rank() ? first : 0) + d;
#pragma unroll 4
          for (int i = 0; i < n; i++) {
            const float4 head = *reinterpret_cast<const float4*>(part + i * of_part);
            denominator = fmaf(head.z, head.y, denominator);
            if (d < mine) value = fmaf(head.z, values[i * of_part], value);
          }
        }
        if (d < mine) out[4 + first + d] = value;
        if (d == 0) out[0] = common, out[1] = denominator;
      }
    }
    return end(came);
  }

 private:
  static constexpr int kIdle = -1;

  // What a CTA sends to one peer: floats(to) of them, quad by quad.
  struct Span {
    const float* values;
    int n;
    __device__ int floats(int) const { return n; }
    __device__ const uint4* quad(int, int q) const { return reinterpret_cast<const uint4*>(values) + q; }
  };
  struct Shares {
    const ClusterRole& role;
    const float* values;
    int n;
    __device__ int floats(int to) const { return role.length_of(n, to); }
    __device__ const uint4* quad(int to, int q) const { return reinterpret_cast<const uint4*>(values + role.begin_of(n, to)) + q; }
  };
  struct Rooted {
    const void* values;
    int n, root;
    __device__ int floats(int to) const { return root == kAll || root == to ? n : 0; }
    __device__ const uint4* quad(int, int q) const { return static_cast<const uint4*>(values) + q; }
  };
  template <bool kShare>
  struct Partials {
    const ClusterRole& role;
    const float* partials;
    int parts, stride, n_values;
    __device__ int floats(int to) const { return parts * partial_floats(kShare ? role.length_of(n_values, to) : n_values); }
    __device__ const uint4* quad(int to, int q) const {
      if (!kShare) return reinterpret_cast<const uint4*>(partials) + q;
      const int quads = partial_floats(role.length_of(n_values, to)) / 4, part = q / quads, in_part = q - part * quads;
      return reinterpret_cast<const uint4*>(partials + part * stride + (in_part ? role.begin_of(n_values, to) + 4 * in_part : 0));
    }
  };

  // Over the lanes of a warp.
  __device__ static int warp_most(int value) { return __reduce_max_sync(0xffffffffu, value); }
  __device__ static int warp_total(int value) { return __reduce_add_sync(0xffffffffu, value); }

  __device__ static int message_bytes(int floats) { return 16 * max(cluster_quads(floats), 1); }  // an empty one is a quad
  __device__ bool is_root(int root) const { return root == kAll || root == rank(); }
  __device__ int log_size() const { return 31 - __clz(size()); }
  __device__ int buffer() const { return collectives_ & 1; }
  // Where the receiver `at` has the slot of `from`: it has none of its own.
  __device__ static int slot_number(int from, int at) { return from < at ? from : from - 1; }
  __device__ const float* slot_of(int from, int slot) const { return receive_ + buffer() * buffer_floats_ + slot_number(from, rank()) * slot; }

  __device__ void begin(int bytes) {
    ptx::sync_threads(barrier_, threads_);
    if (size() > 1 && thread_ == 0 && !failed_) ptx::barrier_expect(&barriers_->full[buffer()], static_cast<uint32_t>(bytes));
  }

  template <class Message>
  __device__ void send(int slot, const Message& message) {
    if (size() == 1 || failed_ || way_ == kIdle) return;
    const int lane = thread_ % kWarpLanes, warps = threads_ / kWarpLanes;
    const uint32_t here = ptx::shared_address(receive_ + buffer() * buffer_floats_), full_here = ptx::shared_address(&barriers_->full[buffer()]);
    for (int peer = first_peer_; peer < size() - 1; peer += warps) {
      const int next = rank() + 1 + peer, to = next < size() ? next : next - size();  // no two CTAs begin with the same peer
      const uint32_t there = ptx::address_in_cta(here, to) + static_cast<uint32_t>(slot_number(rank(), to) * slot) * 4,
                     full = ptx::address_in_cta(full_here, to);
      const int quads = cluster_quads(message.floats(to));
      if (quads == 0 && way_ == 0 && lane == 0) ptx::store_async(there, uint4{0, 0, 0, 0}, full);
#pragma unroll 4
      for (int q = way_ * kWarpLanes + lane; q < quads; q += ways_ * kWarpLanes) ptx::store_async(there + 16 * q, *message.quad(to, q), full);
    }
  }

  // Until everything has come. False: a lane of this warp gave up, or the role had.
  __device__ bool wait() {
    if (size() == 1) return true;
    const uint32_t parity = collectives_ >> 1 & 1;
    bool came = false;
    for (uint32_t tries = 1; !failed_; tries++) {
      came = ptx::barrier_passed_cluster(&barriers_->full[buffer()], parity);
      if (came || (tries % 64 == 0 && give_up_())) break;
    }
    return __all_sync(0xffffffffu, came);
  }

  // out[i] for i = first .. first + n - 1, of this CTA's own values and the slots.
  template <class Op>
  __device__ void reduce(const float* values, int first, int n, int slot, float* out, Op op) const {
    const int quads = cluster_quads(n);
    for (int q = thread_; q < quads; q += threads_) {
      const auto of_rank = [&](int from) {
        return *reinterpret_cast<const float4*>((from == rank() ? values + first : slot_of(from, slot)) + 4 * q);
      };
      float4 sum = of_rank(0);
#pragma unroll 4
      for (int from = 1; from < size(); from++) sum = both(sum, of_rank(from), op);
      *reinterpret_cast<float4*>(out + first + 4 * q) = sum;
    }
  }
  template <class Op>
  __device__ static float4 both(float4 a, float4 b, Op op) {
    return {op(a.x, b.x), op(a.y, b.y), op(a.z, b.z), op(a.w, b.w)};
  }

  __device__ bool end(bool came) {
    failed_ = ptx::sync_any(barrier_, threads_, !came);
    collectives_++;
    return !failed_;
  }

  int thread_, threads_, barrier_;
  ClusterBarriers* barriers_;
  float* receive_;
  int buffer_floats_;
  GiveUp give_up_;
  int rank_ = 0, size_ = 1;
  int ways_ = 1, way_ = 0, first_peer_ = 0;
  uint32_t collectives_ = 0;
  bool failed_ = false;
};

}  // namespace cf::gpu
