/*
 * date.c: dates as HTTP writes them (RFC 9110, 5.6.7).
 *
 * By hand, because strftime(3) would take more stack than a connection has in its first page, and
 * looks at the locale.
 */
#include "http.h"

#include <string.h>

static void put_2(char *text, int64_t n)
{
    text[0] = (char)('0' + n / 10);
    text[1] = (char)('0' + n % 10);
}

/* Years are counted from March, so that the leap day is the last of its year: then a month's days
 * follow a straight line, (153 * month + 2) / 5. */
static void put_day(char *text, int64_t days)
{
    enum { DAYS_TO_1970 = 719468, ERA_DAYS = 146097 }; /* from 1 March of the year 0; 400 years */
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

    int64_t n = days + DAYS_TO_1970;
    int64_t era = n / ERA_DAYS;
    int64_t of_era = n % ERA_DAYS;
    int64_t year =
        (of_era - of_era / 1460 + of_era / 36524 - of_era / (ERA_DAYS - 1)) / 365; /* of the era */
    int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * of_year + 2) / 153; /* 0 is March */
    int64_t day = of_year - (153 * month + 2) / 5 + 1;
    bool next_year = month >= 10;
    year += 400 * era + next_year;
    month += next_year ? -10 : 2; /* 0 is January */

    put_2(text, day);
    memcpy(text + 3, months + 3 * month, 3);
    put_2(text + 7, year / 100 % 100);
    put_2(text + 9, year % 100);
}

void date_put(char *text, int64_t unix_s)
{
    enum { DAY_S = 86400 };
    static const char weekdays[] = "ThuFriSatSunMonTueWed"; /* 1 January 1970 was a Thursday */

    if (unix_s < 0)
        unix_s = 0;
    int64_t days = unix_s / DAY_S;
    int64_t of_day = unix_s % DAY_S;
    memcpy(text, "Thu, 01 Jan 1970 00:00:00 GMT", DATE_BYTES);
    memcpy(text, weekdays + 3 * (days % 7), 3);
    put_day(text + 5, days);
    put_2(text + 17, of_day / 3600);
    put_2(text + 20, of_day / 60 % 60);
    put_2(text + 23, of_day % 60);
}
