/* A process in a session of its own, whose first thread ends while another one goes on: the system shows it as a zombie.
 * Writes down its process id, and ends by itself after a while if nobody else ends it. */
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static void *go_on(void *path) {
    FILE *file = fopen(path, "w");
    if (file == NULL) _exit(1);
    fprintf(file, "%d\n", getpid());
    fclose(file);
    sleep(120);
    _exit(0);
}

int main(int count, char **args) {
    pthread_t thread;
    if (count != 2 || setsid() < 0 || pthread_create(&thread, NULL, go_on, args[1]) != 0) return 1;
    pthread_exit(NULL);
}
