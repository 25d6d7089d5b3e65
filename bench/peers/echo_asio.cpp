/*
 * echo_asio.cpp: the echo server on Asio, Boost's or the one that stands alone: one thread,
 * callbacks.
 *
 *     echo_asio HOST:PORT [--buffer BYTES]
 *     echo_asio --version
 *
 * As the asynchronous TCP echo server among Asio's examples: a session that its handlers keep
 * alive.
 */
#ifdef ASIO_STANDALONE
#include <asio.hpp>
#define ASIO_NAME   "Asio"
#define ASIO_NUMBER ASIO_VERSION
using error_code = asio::error_code;
#else
#include <boost/asio.hpp>
#define ASIO_NAME   "Boost.Asio"
#define ASIO_NUMBER BOOST_ASIO_VERSION
namespace asio = boost::asio;
using error_code = boost::system::error_code;
#endif

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

using asio::ip::tcp;

namespace
{

class session : public std::enable_shared_from_this<session>
{
  public:
    session(tcp::socket socket, std::size_t bytes) : socket_(std::move(socket)), buffer_(bytes)
    {
    }

    void read()
    {
        socket_.async_read_some(asio::buffer(buffer_),
                                [self = shared_from_this()](error_code error, std::size_t n) {
                                    if (!error)
                                        self->write(n);
                                });
    }

  private:
    void write(std::size_t n)
    {
        asio::async_write(socket_, asio::buffer(buffer_, n),
                          [self = shared_from_this()](error_code error, std::size_t) {
                              if (!error)
                                  self->read();
                          });
    }

    tcp::socket socket_;
    std::vector<char> buffer_;
};

void accept(tcp::acceptor &acceptor, std::size_t bytes)
{
    acceptor.async_accept([&acceptor, bytes](error_code error, tcp::socket socket) {
        if (!error) {
            error_code ignored;
            socket.set_option(tcp::no_delay(true), ignored);
            std::make_shared<session>(std::move(socket), bytes)->read();
        }
        accept(acceptor, bytes);
    });
}

} // namespace

int main(int argc, char **argv)
{
    const std::string address = argc > 1 ? argv[1] : "";
    const auto colon = address.rfind(':');
    if (address == "--version") {
        std::printf(ASIO_NAME " %d.%d.%d\n", ASIO_NUMBER / 100000, ASIO_NUMBER / 100 % 1000,
                    ASIO_NUMBER % 100);
        return 0;
    }
    if (colon == std::string::npos) {
        std::fprintf(stderr, "usage: echo_asio HOST:PORT [--buffer BYTES]\n");
        return 2;
    }
    std::size_t bytes = 2048;
    if (argc > 3 && !std::strcmp(argv[2], "--buffer"))
        bytes = std::strtoul(argv[3], nullptr, 10);
    try {
        asio::io_context context(1); /* one thread: no locks where it knows that */
        const auto port = static_cast<unsigned short>(std::stoi(address.substr(colon + 1)));
        tcp::acceptor acceptor(context, {asio::ip::make_address(address.substr(0, colon)), port});
        accept(acceptor, bytes);
        context.run();
    } catch (const std::exception &failure) {
        std::fprintf(stderr, "echo_asio: %s\n", failure.what());
        return 1;
    }
    return 0;
}
