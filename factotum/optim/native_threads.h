// Work cut into chunks that do not depend on the number of threads, and threads to do it.
#pragma once

#include "native_vectors.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

struct Chunk {
    int64_t job, first, last;
};

template <class J> static std::vector<Chunk> chunks(const J *jobs, int64_t count, int64_t size) {
    std::vector<Chunk> found;
    for (int64_t job = 0; job < count; job++)
        for (int64_t first = 0; first < jobs[job].size; first += size)
            found.push_back({job, first, std::min(first + size, jobs[job].size)});
    return found;
}

// Threads that live for one call: none is left to wait, spin or be lost in a fork.
template <class F> static void in_parallel(int64_t count, int64_t threads, F work) {
    std::atomic<int64_t> next{0};
    auto run = [&] {
        NoDenormals here;
        for (int64_t i; (i = next++) < count;) work(i);
    };
    std::vector<std::thread> others;
    others.reserve(std::min(threads, count));
    try {
        while ((int64_t)others.size() + 1 < std::min(threads, count)) others.emplace_back(run);
    } catch (const std::exception &) {  // no more threads to be had: those there are do the work
    }
    run();
    for (auto &other : others) other.join();
}

static uint32_t mixed(uint64_t x) {  // splitmix64
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return (uint32_t)(x ^ (x >> 31));
}
