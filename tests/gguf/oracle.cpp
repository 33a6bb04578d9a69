// Copyright: The magi.models maintainers
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
//
// llama.cpp's verdict on GGUF files, one command per line of standard input, one answer per line of output:
//   check PATH            accept | reader | loader | abort
//   time N PATH           N times of gguf_init_from_file(no_alloc), in seconds, separated by spaces
//   types                 the tensor types: NUMBER:NAME:BLOCK ELEMENTS:BLOCK BYTES … (lower-case names)
//   kinds                 the kinds of files that llama.cpp's tests/test-gguf.cpp builds: NUMBER:NAME:GOOD …
//   emit KIND SEED PATH   writes a file of that kind; answers "ok"
// "reader" is a refusal by ggml/src/gguf.cpp, "loader" one by the checks of src/llama-model-loader.cpp that
// need only the header (below), "abort" a crash of either: each check runs in a process of its own.

#define main test_gguf_main
#include "test-gguf.cpp"
#undef main

// Only the main of that file asks for backends, and it is not called: the stubs save linking all of ggml.
size_t             ggml_backend_dev_count(void)     { return 0; }
ggml_backend_dev_t ggml_backend_dev_get(size_t)     { return nullptr; }

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <iostream>
#include <set>
#include <sstream>

enum verdict { ACCEPT, READER, LOADER };
static const char * const VERDICTS[] = { "accept", "reader", "loader" };

// GGUFMeta::GKV::get_kv throws for a key of another type than it asks for.
static bool type_is(const gguf_context * gguf, const char * key, gguf_type wanted) {
    const int64_t id = gguf_find_key(gguf, key);
    return id < 0 || gguf_get_kv_type(gguf, id) == wanted;
}

// The constructor of llama_model_loader: types of the keys that it reads, tensors unique and within the file.
static bool loader_accepts(const gguf_context * gguf, uint64_t file_size) {
    if (!type_is(gguf, "general.architecture", GGUF_TYPE_STRING) || !type_is(gguf, "general.file_type", GGUF_TYPE_UINT32) ||
        !type_is(gguf, "split.count", GGUF_TYPE_UINT16)) {
        return false;
    }
    const int64_t count = gguf_find_key(gguf, "split.count");
    if (count >= 0 && gguf_get_val_u16(gguf, count) > 1) {
        const int64_t number = gguf_find_key(gguf, "split.no");
        const int64_t total  = gguf_find_key(gguf, "split.tensors.count");
        if (number < 0) {
            return false;
        }
        // Aborts for another type, as for a later shard.
        if (gguf_get_val_u16(gguf, number) == 0 &&
            (total < 0 || gguf_get_kv_type(gguf, total) != GGUF_TYPE_INT32)) {
            return false;
        }
    }
    std::set<std::string> names;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        const uint64_t begin = gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i);
        const uint64_t end   = begin + gguf_get_tensor_size(gguf, i);
        if (!names.insert(gguf_get_tensor_name(gguf, i)).second || end < begin || end > file_size) {
            return false;
        }
    }
    return true;
}

static verdict check(const char * path) {
    ggml_context * ggml = nullptr;
    gguf_context * gguf = gguf_init_from_file(path, { /*no_alloc =*/ true, &ggml });
    if (!gguf) {
        return READER;
    }
    struct stat status;
    return stat(path, &status) == 0 && loader_accepts(gguf, status.st_size) ? ACCEPT : LOADER;
}

static const char * check_apart(const char * path) {
    const pid_t child = fork();
    if (child == 0) {
        const rlimit limit = { 4ULL << 30, 4ULL << 30 };  // a length bomb must not take the machine along
        setrlimit(RLIMIT_AS, &limit);
        _exit(check(path));
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) <= LOADER ? VERDICTS[WEXITSTATUS(status)] : "abort";
}

static void time_reads(int n, const char * path) {
    for (int i = 0; i < n; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        ggml_context * ggml = nullptr;
        gguf_context * gguf = gguf_init_from_file(path, { /*no_alloc =*/ true, &ggml });
        if (gguf) {
            gguf_free(gguf);
            ggml_free(ggml);
        }
        std::cout << std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() << ' ';
    }
    std::cout << std::endl;
}

static const handcrafted_file_type KINDS[] = {
    HANDCRAFTED_HEADER_BAD_MAGIC, HANDCRAFTED_HEADER_BAD_VERSION_0, HANDCRAFTED_HEADER_BAD_VERSION_1,
    HANDCRAFTED_HEADER_BAD_VERSION_FUTURE, HANDCRAFTED_HEADER_BAD_N_TENSORS, HANDCRAFTED_HEADER_BAD_N_KV,
    HANDCRAFTED_HEADER_EMPTY, HANDCRAFTED_KV_BAD_KEY_SIZE, HANDCRAFTED_KV_EMPTY_KEY, HANDCRAFTED_KV_BAD_TYPE,
    HANDCRAFTED_KV_DUPLICATE_KEY, HANDCRAFTED_KV_BAD_ALIGN, HANDCRAFTED_KV_WRONG_TYPE_ALIGN, HANDCRAFTED_KV_SUCCESS,
    HANDCRAFTED_TENSORS_BAD_NAME_SIZE, HANDCRAFTED_TENSORS_BAD_N_DIMS, HANDCRAFTED_TENSORS_BAD_SHAPE,
    HANDCRAFTED_TENSORS_ZERO_DIM, HANDCRAFTED_TENSORS_NE_TOO_BIG, HANDCRAFTED_TENSORS_NBYTES_TOO_BIG,
    HANDCRAFTED_TENSORS_NBYTES_PAD_WRAP, HANDCRAFTED_TENSORS_BAD_TYPE, HANDCRAFTED_TENSORS_BAD_OFFSET,
    HANDCRAFTED_TENSORS_DUPLICATE_NAME, HANDCRAFTED_TENSORS_BAD_ALIGN, HANDCRAFTED_TENSORS_INCONSISTENT_ALIGN,
    HANDCRAFTED_TENSORS_SUCCESS, HANDCRAFTED_TENSORS_CUSTOM_ALIGN, HANDCRAFTED_DATA_NOT_ENOUGH_DATA,
    HANDCRAFTED_DATA_BAD_ALIGN, HANDCRAFTED_DATA_INCONSISTENT_ALIGN, HANDCRAFTED_DATA_MEM_SIZE_OVERFLOW,
    HANDCRAFTED_DATA_SUCCESS, HANDCRAFTED_DATA_CUSTOM_ALIGN,
};

static void emit(int kind, unsigned seed, const char * path) {
    FILE * from = get_handcrafted_file(seed, handcrafted_file_type(kind));
    const std::vector<uint8_t> data = read_file_to_buffer(from);
    FILE * to = fopen(path, "wb");
    helper_write(to, data.data(), data.size());
    fclose(to);
    fclose(from);
}

static void silence(ggml_log_level, const char *, void *) {}

int main() {
    ggml_log_set(silence, nullptr);
    std::string line;
    while (std::getline(std::cin, line)) {
        std::istringstream words(line);
        std::string command, path;
        int number = 0;
        unsigned seed = 0;
        words >> command;
        if (command == "check") {
            std::getline(words >> std::ws, path);
            std::cout << check_apart(path.c_str()) << std::endl;
        } else if (command == "time") {
            words >> number;
            std::getline(words >> std::ws, path);
            time_reads(number, path.c_str());
        } else if (command == "types") {
            for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
                const ggml_type id = ggml_type(type);
                if (ggml_blck_size(id) != 0) {
                    std::cout << type << ':' << ggml_type_name(id) << ':' << ggml_blck_size(id) << ':' << ggml_type_size(id) << ' ';
                }
            }
            std::cout << std::endl;
        } else if (command == "kinds") {
            for (const auto kind : KINDS) {
                std::cout << kind << ':' << handcrafted_file_type_name(kind) << ':' << expect_context_not_null(kind) << ' ';
            }
            std::cout << std::endl;
        } else if (command == "emit") {
            words >> number >> seed;
            std::getline(words >> std::ws, path);
            emit(number, seed, path.c_str());
            std::cout << "ok" << std::endl;
        }
    }
    return 0;
}
