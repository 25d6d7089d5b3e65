/*
 * harness.hpp: the server as a child process, and clients on plain sockets.
 *
 * Every wait is for an event, by poll(2), and bounded by PATIENCE_MS: a test that waits in vain
 * fails and says for what. The server's path comes from the environment variable HTTP_SERVER.
 */
#ifndef TESTS_HTTP_HARNESS_HPP
#define TESTS_HTTP_HARNESS_HPP

#include "tests/base/child.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

constexpr int PATIENCE_MS = 20000;

/* Whether the server was built with a sanitizer, which changes what memory and time it needs. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool SANITIZED = true;
#else
constexpr bool SANITIZED = false;
#endif

/* Whether its frames are as small as they are to be. */
#ifdef __OPTIMIZE__
constexpr bool LEAN = !SANITIZED;
#else
constexpr bool LEAN = false;
#endif

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point begin);

struct Answer {
    int status = 0;
    std::map<std::string, std::string> headers; /* names in lower case */
    std::string body;
    std::string head; /* as it came */
    bool complete = false;

    std::string header(const std::string &name) const
    {
        auto found = headers.find(name);
        return found == headers.end() ? "" : found->second;
    }
};

enum class Ending { open, fin, reset };

/* A connection. Moves, does not copy; closes at its end. */
class Client
{
  public:
    /* source: an address of 127.0.0.0/8 to connect from, "" for any. Fails the test when it
     * cannot. */
    explicit Client(uint16_t port, const std::string &source = "", int receive_buffer = 0);
    Client(Client &&other) noexcept : fd_(other.fd_), in_(std::move(other.in_))
    {
        other.fd_ = -1;
    }
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;
    ~Client()
    {
        close();
    }

    int fd() const
    {
        return fd_;
    }
    /* Sends all of it. False when the server has ended the connection. */
    bool send(std::string_view bytes);
    /* One answer; incomplete when the connection ended first. bare: it answers a HEAD. */
    Answer answer(bool bare = false);
    /* Sends while it receives, until `count` answers have come or the connection ends. */
    std::vector<Answer> exchange(std::string_view bytes, size_t count);
    /* send, then answer */
    Answer ask(std::string_view request, bool bare = false);
    /* Receives until the connection ends, keeping what came in received(). */
    Ending end(int patience_ms = PATIENCE_MS);
    const std::string &received() const
    {
        return in_;
    }
    void finish_sending();
    /* Ends the connection with a reset. */
    void reset();
    void close();

  private:
    bool receive_some(int patience_ms);
    bool take(Answer *answer, bool bare);

    int fd_ = -1;
    std::string in_;
    Ending ending_ = Ending::open;
};

class Server
{
  public:
    /* Starts it on a free port and waits until it listens. descriptors: its limit, 0 for ours. */
    explicit Server(const std::vector<std::string> &options = {}, unsigned descriptors = 0);
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;
    ~Server();

    uint16_t port() const
    {
        return port_;
    }
    pid_t pid() const
    {
        return pid_;
    }
    void signal(int number) const;
    /* Waits for its end; returns the status as wait(2) does, or -1 when it did not end. */
    int wait(int patience_ms = PATIENCE_MS);
    /* SIGTERM, then wait(). */
    int stop(int patience_ms = PATIENCE_MS);
    /* What it has written to standard error, and, once waited for, to standard output. */
    std::string said() const
    {
        return err_.text();
    }
    const std::string &printed() const
    {
        return out_;
    }

    std::string status_json() const;
    /* A figure of /status.json: number("connections", "open"). */
    double number(const std::string &group, const std::string &name) const;
    /* Asks until the figure is as wanted. False when it never is. */
    bool reaches(const std::string &group, const std::string &name, double wanted) const;
    size_t descriptors() const;
    size_t resident_bytes() const;
    double cpu_ms() const;

  private:
    void read_port();

    pid_t pid_ = -1;
    int pidfd_ = -1;
    int status_ = -1;
    int stdout_ = -1;
    uint16_t port_ = 0;
    std::string out_;
    Said err_;
};

std::string get(const std::string &path, const std::string &more_headers = "");
std::string post(const std::string &path, const std::string &body);

/* Whether anybody listens on the port. */
bool can_connect(uint16_t port);

/* Asks on a connection of its own. */
Answer ask_once(const Server &server, const std::string &request, bool bare = false);

/* Runs a program; its output. ret_status, unless NULL, is as of wait(2). */
std::string run_program(const std::vector<std::string> &command, int *ret_status = nullptr);
bool have_program(const std::string &name);

/* A folder that goes away with what is in it. */
class Folder
{
  public:
    Folder();
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;
    ~Folder();
    const std::string &path() const
    {
        return path_;
    }
    std::string write(const std::string &name, const std::string &content) const;

  private:
    std::string path_;
};

/* Bytes that look random and are always the same. Comparisons of them stand in parentheses of their
 * own, CHECK((a == b)): to print them is no use. */
std::string noise(size_t size, uint32_t seed = 1);

#endif
