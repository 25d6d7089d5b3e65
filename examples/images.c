/*
 * images.c: an image pipeline: reads PNG files, halves them, writes them, several at a time.
 *
 *     images [OUT-DIRECTORY FILE.png...]
 *
 *     list --> load --> load        --> shrink        --> save --> progress
 *                  \-> load        /        \-> shrink        \-> save
 *
 * Each stage is some workers between two channels, and all stages have the same worker: it receives
 * a picture, does the stage's step with it, and sends it on. The last worker to leave a stage
 * closes its output. All of it is one group: the first error ends the rest.
 *
 * Look at work(), which is the whole pipeline, and at read_file() and write_file(): calls of whorl,
 * so that one worker's file is on its way while another one computes. To compute would hold the
 * thread that runs all the others: compute() has it done on another one (wh_blocking()). Pictures
 * are passed by pointer and belong to the table they came from, so whatever ends the
 * pipeline, nothing that was under way in a channel is lost.
 *
 * Without arguments it makes pictures of its own in a temporary directory, looks at every pixel of
 * the results, and removes them. Existing files are never overwritten.
 */
#include <whorl.h>

#include <errno.h>
#include <fcntl.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STAGES = 3, OWN_PICTURES = 8, PATH_BYTES = 4096, CHANNELS = 4 };
static const size_t pixels_max = (size_t)1 << 26;

/* RGBA, a byte each. */
struct raster {
    unsigned width, height;
    unsigned char *bytes; /* on the heap */
};

struct picture {
    const char *from;
    char to[PATH_BYTES];
    struct raster before, after;
    unsigned char *file; /* while it is on its way from or to the disk */
    size_t file_bytes;   /* of the last one */
};

typedef WH_CHAN(struct picture *) picture_chan;

/* ---- Files ---- */

/* Reads the whole of it into picture->file. */
static int read_file(const char *path, struct picture *picture)
{
    struct statx info;
    wh_fd fd = wh_openat(AT_FDCWD, path, O_RDONLY, 0);
    if (fd < 0)
        return fd;
    ssize_t rc = wh_statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &info);
    size_t size = rc < 0 ? 0 : (size_t)info.stx_size, have = 0;
    unsigned char *bytes = malloc(size + 1);
    if (rc == 0 && !bytes)
        rc = -ENOMEM;
    while (rc >= 0 && have < size) {
        rc = wh_read(fd, bytes + have, size - have);
        if (rc == 0)
            size = have; /* it was cut meanwhile */
        else if (rc > 0)
            have += (size_t)rc;
    }
    wh_close(fd);
    if (rc < 0) {
        free(bytes);
        return (int)rc;
    }
    picture->file = bytes;
    picture->file_bytes = have;
    return 0;
}

/* Writes a new file, or leaves none: half a picture would be in the way of the next run. */
static int write_file(const char *path, const unsigned char *bytes, size_t len)
{
    wh_fd fd = wh_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0)
        return fd;
    /* Each piece says where it goes: after a short write at the file's position Linux (6.18) may
     * have left that position where it was, and the next piece would overwrite the one before. */
    ssize_t rc = 0;
    size_t done = 0;
    while (rc >= 0 && done < len) {
        rc = wh_pwrite(fd, bytes + done, len - done, (int64_t)done);
        if (rc == 0)
            rc = -EIO;
        else if (rc > 0)
            done += (size_t)rc;
    }
    int closed = wh_close(fd);
    if (rc >= 0 && closed == 0)
        return 0;
    WH_SHIELD
    {
        wh_unlinkat(AT_FDCWD, path, 0); /* also when it is an error elsewhere that ends this one */
    }
    return rc < 0 ? (int)rc : closed;
}

/* ---- What computes, on other threads: nothing here may call whorl ---- */

static int refused(const char *path, png_image *image)
{
    fprintf(stderr, "images: %s: %s\n", path, image->message);
    png_image_free(image);
    return -EBADMSG;
}

static int decode(struct picture *picture)
{
    struct raster *raster = &picture->before;
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_memory(&image, picture->file, picture->file_bytes))
        return refused(picture->from, &image);
    if (image.height > pixels_max / image.width) {
        png_image_free(&image);
        return -EFBIG;
    }
    image.format = PNG_FORMAT_RGBA;
    raster->width = image.width;
    raster->height = image.height;
    raster->bytes = malloc(PNG_IMAGE_SIZE(image));
    if (!raster->bytes) {
        png_image_free(&image);
        return -ENOMEM;
    }
    if (!png_image_finish_read(&image, NULL, raster->bytes, 0, NULL))
        return refused(picture->from, &image);
    return 0;
}

static int encode(struct picture *picture)
{
    const struct raster *raster = &picture->after;
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = raster->width,
                       .height = raster->height,
                       .format = PNG_FORMAT_RGBA};
    png_alloc_size_t len = PNG_IMAGE_PNG_SIZE_MAX(image);
    picture->file = malloc(len);
    if (!picture->file)
        return -ENOMEM;
    if (!png_image_write_to_memory(&image, picture->file, &len, 0, raster->bytes, 0, NULL))
        return refused(picture->to, &image);
    picture->file_bytes = len;
    return 0;
}

static const unsigned char *pixel(const struct raster *raster, unsigned x, unsigned y)
{
    x = x < raster->width ? x : raster->width - 1;
    y = y < raster->height ? y : raster->height - 1;
    return raster->bytes + ((size_t)y * raster->width + x) * CHANNELS;
}

/* Each pixel becomes the mean of four. */
static int halve(struct picture *picture)
{
    const struct raster *from = &picture->before;
    struct raster *to = &picture->after;
    to->width = (from->width + 1) / 2;
    to->height = (from->height + 1) / 2;
    to->bytes = malloc((size_t)to->width * to->height * CHANNELS);
    if (!to->bytes)
        return -ENOMEM;
    unsigned char *out = to->bytes;
    for (unsigned y = 0; y < to->height; y++)
        for (unsigned x = 0; x < to->width; x++)
            for (int i = 0; i < CHANNELS; i++)
                *out++ = (unsigned char)((pixel(from, 2 * x, 2 * y)[i] +
                                          pixel(from, 2 * x + 1, 2 * y)[i] +
                                          pixel(from, 2 * x, 2 * y + 1)[i] +
                                          pixel(from, 2 * x + 1, 2 * y + 1)[i] + 2) /
                                         4);
    return 0;
}

/* ---- The steps ---- */

/* Waits for a computation on another thread, whatever happens meanwhile: it has the picture. */
static int compute(int (*function)(struct picture *), struct picture *picture)
{
    intptr_t result = 0;
    int rc = 0;
    WH_SHIELD
    {
        rc = wh_blocking(&result, function, picture);
    }
    return rc < 0 ? rc : (int)result;
}

static void drop_file(struct picture *picture)
{
    free(picture->file);
    picture->file = NULL;
}

static int load(struct picture *picture)
{
    int rc = read_file(picture->from, picture);
    if (rc == 0)
        rc = compute(decode, picture);
    drop_file(picture);
    return rc;
}

static int shrink(struct picture *picture)
{
    return compute(halve, picture);
}

static int save(struct picture *picture)
{
    int rc = compute(encode, picture);
    if (rc == 0)
        rc = write_file(picture->to, picture->file, picture->file_bytes);
    drop_file(picture);
    return rc;
}

/* ---- The pipeline ---- */

struct stage {
    const char *name;
    int (*step)(struct picture *);
    int workers; /* that have not left */
    picture_chan in, out;
};

static int work(struct stage *stage)
{
    struct picture *picture;
    int rc;
    while ((rc = wh_chan_recv(stage->in, &picture)) > 0) {
        if ((rc = stage->step(picture)) < 0) {
            if (rc != -ECANCELED)
                fprintf(stderr, "images: %s %s: %s\n", stage->name,
                        stage->step == save ? picture->to : picture->from, strerror(-rc));
            break;
        }
        if ((rc = wh_chan_send(stage->out, picture)) < 0)
            break;
    }
    if (--stage->workers == 0)
        wh_chan_close(stage->out);
    return rc;
}

static int list(struct picture *pictures, int count, picture_chan out)
{
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++)
        rc = wh_chan_send(out, &pictures[i]);
    wh_chan_close(out);
    return rc;
}

/* Says what has come out of the pipeline until all has. */
static int progress(picture_chan in, int count)
{
    struct picture *picture;
    int rc, done = 0;
    while ((rc = wh_chan_recv(in, &picture)) > 0)
        printf("[%d/%d] %s: %ux%u -> %ux%u, %zu bytes\n", ++done, count, picture->to,
               picture->before.width, picture->before.height, picture->after.width,
               picture->after.height, picture->file_bytes);
    return rc;
}

static int start_stage(wh_group *group, struct stage *stage)
{
    int rc = 0;
    int workers = stage->workers;
    for (int i = 0; i < workers && rc == 0; i++)
        rc = wh_group_go(group, work, stage);
    return rc;
}

/* Lets the pictures run through the stages. Returns 0, or the first error. */
static int run_pipeline(struct stage *stages, struct picture *pictures, int count)
{
    int rc = 0;
    WH_WITH_GROUP(group, NULL)
    {
        rc = wh_group_go(group, list, pictures, count, stages[0].in);
        for (int i = 0; i < STAGES && rc == 0; i++)
            rc = start_stage(group, &stages[i]);
        if (rc == 0)
            rc = progress(stages[STAGES - 1].out, count);
        if (rc < 0)
            wh_group_cancel(group, rc);
        rc = wh_group_wait(group);
    }
    return rc;
}

static int convert(struct picture *pictures, int count)
{
    struct stage stages[STAGES] = {{"load", load, 3, NULL, NULL},
                                   {"shrink", shrink, 2, NULL, NULL},
                                   {"save", save, 2, NULL, NULL}};
    picture_chan chans[STAGES + 1];
    bool complete = true;
    for (int i = 0; i <= STAGES; i++)
        complete &= (chans[i] = wh_chan_create(struct picture *, 1)) != NULL;
    for (int i = 0; i < STAGES; i++) {
        stages[i].in = chans[i];
        stages[i].out = chans[i + 1];
    }
    int rc = complete ? run_pipeline(stages, pictures, count) : -ENOMEM;
    for (int i = 0; i <= STAGES; i++)
        wh_chan_unref(chans[i]);
    return rc;
}

/* Reads back what was written: it must be the picture that was meant, byte by byte. */
static int verify(const struct picture *picture)
{
    struct picture copy = {.from = picture->to};
    int rc = load(&copy);
    const struct raster *read = &copy.before, *meant = &picture->after;
    if (rc == 0 &&
        (read->width != meant->width || read->height != meant->height ||
         memcmp(read->bytes, meant->bytes, (size_t)read->width * read->height * CHANNELS) != 0))
        rc = -EBADMSG;
    free(read->bytes);
    return rc;
}

static int convert_and_verify(struct picture *pictures, int count)
{
    int rc = convert(pictures, count);
    for (int i = 0; i < count && rc == 0; i++)
        rc = verify(&pictures[i]);
    if (rc == 0)
        printf("%d pictures written and verified\n", count);
    return rc;
}

static void free_pictures(struct picture *pictures, int count)
{
    for (int i = 0; i < count; i++) {
        free(pictures[i].before.bytes);
        free(pictures[i].after.bytes);
    }
    free(pictures);
}

/* ---- With arguments ---- */

/* The picture goes from a file to one of the same name in the directory. */
static int name_picture(struct picture *picture, const char *from, const char *out_dir)
{
    const char *slash = strrchr(from, '/');
    picture->from = from;
    int len = snprintf(picture->to, PATH_BYTES, "%s/%s", out_dir, slash ? slash + 1 : from);
    return len < PATH_BYTES ? 0 : -ENAMETOOLONG;
}

static int given_pictures(const char *out_dir, char **files, int count)
{
    struct picture *pictures = calloc((size_t)count, sizeof *pictures);
    if (!pictures)
        return -ENOMEM;
    int rc = 0;
    for (int i = 0; i < count && rc == 0; i++)
        rc = name_picture(&pictures[i], files[i], out_dir);
    if (rc == 0)
        rc = convert_and_verify(pictures, count);
    free_pictures(pictures, count);
    return rc;
}

/* ---- Without: pictures of its own ---- */

struct own {
    char dir[PATH_BYTES - 64]; /* the rest is for the names in it */
    char from[OWN_PICTURES][PATH_BYTES];
};

/* Red is the column, green is the row, blue is the picture's number. */
static int make_picture(const char *path, int number)
{
    struct picture picture = {.after = {(unsigned)(64 + 16 * number), 128, NULL}};
    struct raster *raster = &picture.after;
    raster->bytes = malloc((size_t)raster->width * raster->height * CHANNELS);
    if (!raster->bytes)
        return -ENOMEM;
    unsigned char *out = raster->bytes;
    for (unsigned y = 0; y < raster->height; y++)
        for (unsigned x = 0; x < raster->width; x++) {
            *out++ = (unsigned char)x;
            *out++ = (unsigned char)y;
            *out++ = (unsigned char)number;
            *out++ = 255;
        }
    snprintf(picture.to, PATH_BYTES, "%s", path);
    int rc = save(&picture);
    free(raster->bytes);
    return rc;
}

static int make_pictures(struct own *own, struct picture *pictures)
{
    int rc = 0;
    for (int i = 0; i < OWN_PICTURES && rc == 0; i++) {
        snprintf(own->from[i], PATH_BYTES, "%s/picture-%d.png", own->dir, i + 1);
        snprintf(pictures[i].to, PATH_BYTES, "%s/half-%d.png", own->dir, i + 1);
        pictures[i].from = own->from[i];
        rc = make_picture(own->from[i], i + 1);
    }
    return rc;
}

/* Whether the picture is what halving make_picture()'s must give. */
static bool is_halved(const struct picture *picture, int number)
{
    const struct raster *half = &picture->after;
    if (half->width != (unsigned)(32 + 8 * number) || half->height != 64)
        return false;
    for (unsigned y = 0; y < half->height; y++)
        for (unsigned x = 0; x < half->width; x++) {
            const unsigned char *p = pixel(half, x, y);
            /* The mean of 2x and 2x + 1, rounded up. */
            if (p[0] != 2 * x + 1 || p[1] != 2 * y + 1 || p[2] != number || p[3] != 255)
                return false;
        }
    return true;
}

static int convert_own(struct own *own, struct picture *pictures)
{
    int rc = make_pictures(own, pictures);
    if (rc == 0)
        rc = convert_and_verify(pictures, OWN_PICTURES);
    for (int i = 0; i < OWN_PICTURES && rc == 0; i++)
        rc = is_halved(&pictures[i], i + 1) ? 0 : -EBADMSG;
    for (int i = 0; i < OWN_PICTURES; i++) {
        unlink(own->from[i]);
        unlink(pictures[i].to);
    }
    return rc;
}

static int own_pictures(void)
{
    const char *parent = getenv("TMPDIR");
    struct own *own = calloc(1, sizeof *own);
    struct picture *pictures = calloc(OWN_PICTURES, sizeof *pictures);
    int rc = -ENOMEM;
    if (own && pictures) {
        snprintf(own->dir, sizeof own->dir, "%s/images.XXXXXX", parent ? parent : "/tmp");
        rc = mkdtemp(own->dir) ? convert_own(own, pictures) : -errno;
        rmdir(own->dir);
    }
    if (pictures)
        free_pictures(pictures, OWN_PICTURES);
    free(own);
    return rc;
}

/* ---- Start ---- */

struct arguments {
    int count;
    char **words;
};

static int app(void *arg)
{
    struct arguments *arguments = arg;
    int rc = arguments->count == 1
                 ? own_pictures()
                 : given_pictures(arguments->words[1], arguments->words + 2, arguments->count - 2);
    if (rc < 0)
        fprintf(stderr, "images: stopped: %s\n", strerror(-rc));
    return rc;
}

int main(int argc, char **argv)
{
    if (argc == 2) {
        fputs("usage: images [OUT-DIRECTORY FILE.png...]\n", stderr);
        return 2;
    }
    /* One worker: the coroutines share plain variables, and take turns. */
    const wh_options one_worker = {.workers = 1};
    return wh_run(app, &(struct arguments){argc, argv}, &one_worker) != 0;
}
