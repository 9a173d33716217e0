/*
 * Runs a fuzz target on files, or on standard input: a replay of what was
 * found or of the seeds, a program for afl-fuzz, a case for the debugger.
 */
#include "fuzz.h"

#define INPUT_MAX ((size_t)16 * 1024 * 1024)

static int
run(const char *name, FILE *f)
{
    uint8_t *bytes = malloc(INPUT_MAX);
    if (f == NULL || bytes == NULL) {
        perror(name);
        free(bytes);
        return 1;
    }
    size_t len = fread(bytes, 1, INPUT_MAX, f);
    uint8_t *exact = exact_copy((struct data){bytes, len});
    free(bytes);
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    return 0;
}

int
main(int argc, char *argv[])
{
    int failed = argc > 1 ? 0 : run("standard input", stdin);
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        failed |= run(argv[i], f);
        if (f != NULL)
            fclose(f);
    }
    return failed;
}
